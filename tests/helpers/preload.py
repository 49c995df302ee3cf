"""Imported by the process that tests fork from: the modules of a run, and two caches."""

import gc
from importlib import import_module

MODULES = """
alembic.command alembic.config matplotlib.backends.backend_svg matplotlib.figure
mlflow.store.tracking.sqlalchemy_store mlflow.store.tracking.sqlalchemy_workspace_store
mlflow.transformers mlflow.utils.search_logged_model_utils
pyarrow.parquet sqlalchemy.dialects.sqlite
transformers.models.bert.modeling_bert transformers.models.gpt2.modeling_gpt2
transformers.models.llama.modeling_llama
lmft.commands.local_launch lmft.commands.train lmft.sweep.report lmft.trainer.train
""".split()

gc.disable()  # until all is imported: the search for garbage would take half of that time
for name in MODULES:
    import_module(name)
import_module("lmft.config.compose").compose([])  # Hydra finds its plugins
import_module("transformers.conversion_mapping").get_checkpoint_conversion_mapping("gpt2")
import_module("mlflow.transformers.peft").is_peft_model(None)  # a logged model needs these two
import_module("mlflow.utils.requirements_utils")._init_modules_to_packages_map()
gc.freeze()  # what is imported stays
gc.enable()
