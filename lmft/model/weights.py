"""Read a model's weights from safetensors only, check them against its architecture, write them."""

import logging
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import (
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from lmft.adapter.adapter_files import is_adapted, read_adapter, write_adapter
from lmft.config.model_knobs import ModelConfig
from lmft.dataset.tokenizer import save_tokenizer
from lmft.errors import UserError, first_line
from lmft.objective import Objective
from lmft.storage.hub import pinned_revision

logger = logging.getLogger(__name__)

WRAPPED = re.compile(r"^(_orig_mod\.|module\.)+")  # names of weights inside of a wrapper


def load_pretrained(
    config: ModelConfig,
    objective: Objective,
    architecture: PreTrainedConfig,
    dtype: torch.dtype = torch.float32,
    quantize: bool = False,
) -> PreTrainedModel:
    """Return a model of this architecture with the weights that `model.name` names.

    Args:
        config: names the weights.
        objective: decides the head.
        architecture: of the model.
        dtype: of the weights.
        quantize: to 4 bits, with bitsandbytes; the model then computes in `dtype`.

    Raises:
        UserError: the weights are pickled, damaged, or of another architecture.
    """
    assert config.name is not None
    check_not_pickled(config.name, objective)
    check_not_quantized(config.name, architecture)
    model: PreTrainedModel
    try:
        model, report = objective.auto_model.from_pretrained(
            config.name,
            config=architecture,
            revision=pinned_revision(config.name, config.revision),
            dtype=dtype,
            quantization_config=to_nf4(dtype) if quantize else None,
            trust_remote_code=config.trust_remote_code,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # check_weights raises, and names the weight
            output_loading_info=True,
            key_mapping={WRAPPED.pattern: ""} if is_wrapped(config.name) else None,
        )
    except (OSError, SafetensorError) as error:
        if "use_safetensors" in str(error):
            raise pickled_error(config.name, "pytorch_model.bin", objective) from error
        reason = first_line(error)
        raise UserError(
            f"model.name={config.name} has no weights that can be read ({reason}); fetch it again."
        ) from error
    check_weights(config.name, model, report)
    check_finite(config.name, model)
    return model


def to_nf4(dtype: torch.dtype) -> BitsAndBytesConfig:
    """Return the settings for weights in 4 bits (Dettmers et al. 2023) that compute in `dtype`."""
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
    )


def check_not_quantized(name: str, architecture: PreTrainedConfig) -> None:
    """Check that the weights are numbers that can be trained.

    Raises:
        UserError: they are packed into a few bits each.
    """
    settings = getattr(architecture, "quantization_config", None)
    if settings:
        method = dict(settings if isinstance(settings, dict) else vars(settings))["quant_method"]
        raise UserError(
            f"model.name={name} is quantized ({getattr(method, 'value', method)}), and such "
            "weights can't be trained here; name the model that it was made from."
        )


def is_wrapped(name: str) -> bool:
    """Return whether all weights of a local folder have a prefix of torch.compile or DDP.

    If so, report that it is left out.
    """
    keys: list[str] = []
    for path in sorted(Path(name).expanduser().glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            keys += file.keys()
    first = WRAPPED.match(keys[0]) if keys else None
    if first is None or not all(map(WRAPPED.match, keys)):
        return False
    logger.warning(
        "All weights of %s begin with %s, as torch.compile or DDP saves them; they are loaded "
        "without it.",
        name,
        first[0],
    )
    return True


@torch.no_grad()
def check_finite(name: str, model: PreTrainedModel) -> None:
    """Check that no weight is NaN or infinite.

    Raises:
        UserError: one is.
    """
    for weight, values in model.named_parameters():
        if not values.sum().isfinite() and not values.isfinite().all():
            raise UserError(
                f"model.name={name} has values in {weight} that are not finite; fetch it again, or "
                "choose an earlier checkpoint of it."
            )


def check_weights(name: str, model: PreTrainedModel, report: dict[str, Any]) -> None:
    """Check that a checkpoint is one of this architecture; only its head may be missing.

    Raises:
        UserError: a weight is missing, or has another shape.
    """
    mismatched = sorted(report["mismatched_keys"])
    if mismatched:
        weight, shape, expected = mismatched[0]
        raise UserError(
            f"model.name={name} has {weight} in the shape {list(shape)}, but its config.json, with "
            f"model.config, expects {list(expected)}; fix one of them."
        )
    missing = sorted(report["missing_keys"])
    body = [weight for weight in missing if weight.startswith(f"{model.base_model_prefix}.")]
    if body:
        more = f" and {len(body) - 1} more weights" if len(body) > 1 else ""
        raise UserError(
            f"model.name={name} lacks {body[0]}{more}; fetch it again, or make its "
            "config.json, with model.config, fit the weights."
        )
    if missing:
        logger.warning(
            "%s has no weights for %s; they are initialized at random.",
            name,
            ", ".join(missing[:4]),
        )


def check_not_pickled(name: str, objective: Objective) -> None:
    """Check that a local folder has safetensors: reading a pickle can run any code.

    Raises:
        UserError: its weights are only in pickles.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir() or any(folder.glob("*.safetensors")):
        return
    pickles = (
        sorted(folder.glob("*.bin")) + sorted(folder.glob("*.pt")) + sorted(folder.glob("*.pth"))
    )
    if pickles:
        raise pickled_error(name, pickles[0].name, objective)


def pickled_error(name: str, file: str, objective: Objective) -> UserError:
    """Return the error for pickled weights, with the command that converts them."""
    kind = objective.auto_model.__name__
    return UserError(
        f"model.name={name} has its weights in {file}, a pickle, and reading a pickle can run any "
        f'code; if you trust it, convert it: python -c "from transformers import {kind} as '
        f"M; M.from_pretrained({name!r}, use_safetensors=False).save_pretrained("
        f'{Path(name).name!r})", then set model.name to the new folder.'
    )


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    weights: dict[str, Any] | None = None,
    before_prompt: tuple[int, ...] | None = None,
) -> None:
    """Write a Hugging Face folder: of a model, or of its adapter alone.

    Args:
        model: what to write; of an adapted model, the adapter.
        tokenizer: likewise.
        folder: where to.
        weights: replace those of the model, if given.
        before_prompt: as `before` of `save_tokenizer`.
    """
    if is_adapted(model):
        write_adapter(model, folder, weights)
    else:
        model.save_pretrained(folder, state_dict=weights)
    save_tokenizer(tokenizer, folder, before_prompt)


def load_weights(model: PreTrainedModel, folder: Path) -> None:
    """Load the weights that `save_model` wrote to `folder` into `model`."""
    from safetensors.torch import load_model as load_tensors

    if is_adapted(model):
        read_adapter(model, folder)
    else:
        load_tensors(model, folder / "model.safetensors")
