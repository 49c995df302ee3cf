"""What a test's processes have imported before they are forked; nothing of it is called."""

import lmft.launch
import lmft.train  # noqa: F401
import matplotlib.backends.backend_svg
import matplotlib.figure  # noqa: F401
import mlflow.store.tracking.sqlalchemy_store
import mlflow.store.tracking.sqlalchemy_workspace_store  # noqa: F401
import transformers.models.bert.modeling_bert
import transformers.models.gpt2.modeling_gpt2
import transformers.models.llama.modeling_llama  # noqa: F401
