"""Write the best weights of a run as a folder that MLflow loads and serves.

Nothing is pickled: a whole model is a pipeline of transformers, an adapter is loaded with its base
by `adapter_pyfunc.py`. The weights stay where they are: the folder refers to them by symbolic
links, and a store on the same disk gets hard links.
"""

import filecmp
import os
import shutil
import warnings
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lmft.storage.hub import ADAPTER_CONFIG
from lmft.tracker import adapter_pyfunc

PACKAGES = ("mlflow", "torch", "transformers")  # torchvision, which MLflow would add, is not needed
NEW_TOKENS = 50  # at most, unless a request says otherwise
LICENSE_ADVICE = "LICENSE.txt"  # MLflow's, on a repository of the hub that does not exist


def write_flavor(folder: Path, weights: Path, params: dict[str, Any], model: Any) -> None:
    """Write the files of a logged model to `folder`, with symbolic links to the `weights`.

    Args:
        folder: a new one.
        weights: a run's checkpoint/, with its card.
        params: of the run, by full name.
        model: MLflow's description, which is completed and saved as MLmodel.
    """
    from huggingface_hub import ModelCard

    with warnings.catch_warnings():  # about types of MLflow's own
        warnings.filterwarnings("ignore", ".*Any type hint is inferred", UserWarning)
        import mlflow.pyfunc
        import mlflow.transformers

    card = ModelCard.load(weights / "README.md")
    task = str(card.data.pipeline_tag)
    facts: Any = {
        "mlflow_model": model,
        "signature": signature_of(task),
        "input_example": [example_of(weights, task)],
    }
    if (weights / ADAPTER_CONFIG).exists():
        mlflow.pyfunc.save_model(
            folder,
            loader_module=adapter_pyfunc.__name__.rpartition(".")[2],
            code_paths=[adapter_pyfunc.__file__],
            data_path=str(weights),
            pip_requirements=requirements((*PACKAGES, "peft")),
            **facts,
        )
    else:
        trusts = bool(params.get("model.trust_remote_code"))
        mlflow.transformers.save_model(
            describe_pipeline(weights, task, trusts),
            folder,
            model_card=card,
            pip_requirements=requirements(PACKAGES),
            **facts,
        )
    (folder / LICENSE_ADVICE).unlink(missing_ok=True)
    link_equal_files(folder, weights)


def describe_pipeline(weights: Path, task: str, trust_remote_code: bool) -> Any:
    """Return the pipeline of `task` without its weights; saving it links them."""
    import torch
    import transformers
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

    kind: Any = AutoModelForMaskedLM if task == "fill-mask" else AutoModelForCausalLM
    trust = {"trust_remote_code": trust_remote_code}
    with torch.device("meta"):
        model = kind.from_config(AutoConfig.from_pretrained(weights, **trust), **trust)
    model.name_or_path = str(weights)  # a path, so MLflow asks the hub for nothing

    def link_all(save_directory: Path, **_: Any) -> None:
        shutil.copytree(weights, save_directory, copy_function=os.symlink)

    model.save_pretrained = link_all
    tokenizer = AutoTokenizer.from_pretrained(weights, **trust)
    build: Any = transformers.pipeline
    return build(task, model=model, tokenizer=tokenizer, device=torch.device("meta"))


def example_of(weights: Path, task: str) -> str:
    """Return a text to continue, or with a mask to fill."""
    from transformers import AutoTokenizer

    return (
        f"The {AutoTokenizer.from_pretrained(weights).mask_token}" if task == "fill-mask" else "The"
    )


def requirements(packages: Iterable[str]) -> list[str]:
    """Return the packages with their versions here, as pip takes them."""
    return [f"{name}=={version(name).partition('+')[0]}" for name in packages]


def link_equal_files(folder: Path, weights: Path) -> None:
    """Replace what was copied from the weights' folder, such as the tokenizer, by links to it."""
    for file in folder.glob("*/*/*"):
        known = weights / file.name
        if not file.is_symlink() and known.is_file() and filecmp.cmp(file, known, shallow=False):
            file.unlink()
            file.symlink_to(known)


def signature_of(task: str) -> Any:
    """Return a text to a text, and for generation the knobs of a request."""
    from mlflow.models import ModelSignature
    from mlflow.types.schema import ColSpec, DataType, ParamSchema, ParamSpec, Schema

    text = Schema([ColSpec(DataType.string)])
    knobs = [
        ParamSpec("max_new_tokens", DataType.long, NEW_TOKENS),
        ParamSpec("do_sample", DataType.boolean, False),
        ParamSpec("temperature", DataType.double, 1.0),
    ]
    return ModelSignature(text, text, ParamSchema(knobs if task == "text-generation" else []))
