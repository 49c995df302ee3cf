"""A model's weights: read from safetensors alone, checked against its architecture, and written."""

import logging
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from lmft.config.schema import ModelConfig
from lmft.errors import UserError
from lmft.objective import Objective
from lmft.storage.hub import pinned_revision

logger = logging.getLogger(__name__)


def load_pretrained(
    config: ModelConfig, objective: Objective, architecture: PreTrainedConfig
) -> PreTrainedModel:
    """The model of this architecture with the weights that `model.name` leads to.

    Raises:
        UserError: they are pickled, damaged, or of another architecture.
    """
    assert config.name is not None
    refuse_pickles(config.name, objective)
    model: PreTrainedModel
    try:
        model, report = objective.auto_model.from_pretrained(
            config.name,
            config=architecture,
            revision=pinned_revision(config.name, config.revision),
            dtype=torch.float32,
            trust_remote_code=config.trust_remote_code,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # refused below, with their names
            output_loading_info=True,
        )
    except (OSError, SafetensorError) as error:
        if "use_safetensors" in str(error):
            raise pickled(config.name, "pytorch_model.bin", objective) from error
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise UserError(
            f"model.name={config.name} has no weights that can be read ({reason}); fetch it again."
        ) from error
    check_weights(config.name, model, report)
    return model


def check_weights(name: str, model: PreTrainedModel, report: dict[str, Any]) -> None:
    """Refuse a checkpoint that is not one of this architecture; its head alone may be missing.

    Raises:
        UserError: a weight is missing, or has another shape.
    """
    wrong = sorted(report["mismatched_keys"])
    if wrong:
        weight, there, needed = wrong[0]
        raise UserError(
            f"model.name={name} has {weight} in the shape {list(there)}, but its config.json, with "
            f"model.config, makes it {list(needed)}; mend one of them."
        )
    missing = sorted(report["missing_keys"])
    body = [weight for weight in missing if weight.startswith(f"{model.base_model_prefix}.")]
    if body:
        more = f" and {len(body) - 1} more weights" if len(body) > 1 else ""
        raise UserError(
            f"model.name={name} lacks {body[0]}{more}; fetch it again, or see that its "
            "config.json, with model.config, fits it."
        )
    if missing:
        logger.warning(
            "%s has no weights for %s; they start at random.", name, ", ".join(missing[:4])
        )


def refuse_pickles(name: str, objective: Objective) -> None:
    """Weights are read from safetensors: a pickle can run any code while it is read.

    Raises:
        UserError: a local folder has its weights in pickles alone; with the way to convert them.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir() or any(folder.glob("*.safetensors")):
        return
    pickles = (
        sorted(folder.glob("*.bin")) + sorted(folder.glob("*.pt")) + sorted(folder.glob("*.pth"))
    )
    if pickles:
        raise pickled(name, pickles[0].name, objective)


def pickled(name: str, file: str, objective: Objective) -> UserError:
    """Says so, with the command that converts the weights."""
    kind = objective.auto_model.__name__
    return UserError(
        f"model.name={name} has its weights in {file}, a pickle, which could run any code while it "
        f'is read; where you trust it, convert it: python -c "from transformers import {kind} as '
        f"M; M.from_pretrained({name!r}, use_safetensors=False).save_pretrained("
        f'{Path(name).name!r})", and set model.name to the folder that this makes.'
    )


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    weights: dict[str, Any] | None = None,
) -> None:
    """Write an ordinary Hugging Face folder; with other weights than the model's, if given."""
    model.save_pretrained(folder, state_dict=weights)
    tokenizer.save_pretrained(folder)


def load_weights(model: PreTrainedModel, folder: Path) -> None:
    """Put the weights that `save_model` wrote to `folder` into `model`."""
    from safetensors.torch import load_model as load_tensors

    load_tensors(model, folder / "model.safetensors")
