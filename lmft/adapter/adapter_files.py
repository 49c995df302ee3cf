"""Read and write an adapter's folder, as peft does: its config and its own weights."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from lmft.errors import UserError, first_line
from lmft.storage.atomic import read_json, write_json
from lmft.storage.hub import ADAPTER_CONFIG

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."  # of all names in this file


def is_adapted(model: PreTrainedModel) -> bool:
    """Return whether an adapter is attached to the model."""
    return hasattr(model, "peft_config")


def trains_base_weights(folder: Path) -> bool:
    """Return whether the adapter in a folder has weights of its base, not only small matrices."""
    settings = read_json(folder / ADAPTER_CONFIG)
    return bool(settings.get("modules_to_save")) or settings.get("bias", "none") != "none"


def whole_modules(model: PreTrainedModel, parts: list[str]) -> list[str]:
    """Return the full names of the modules that adapter.train_also names.

    Embeddings and head that are tied are one weight, and both are returned: peft does not tie what
    it loads.

    Raises:
        UserError: the model has no such module.
    """
    modules: dict[str, Any] = {
        "embeddings": model.get_input_embeddings(), "head": model.get_output_embeddings()
    }  # fmt: skip
    for part in parts:
        if modules[part] is None:
            raise UserError(
                f"adapter.train_also has {part!r}, which the model lacks; leave it out."
            )
    wanted = {id(modules[part].weight) for part in parts}
    chosen = [part for part in modules.values() if part and id(part.weight) in wanted]
    return [name for name, module in model.named_modules() if any(module is c for c in chosen)]


def adapter_tensors(
    model: PreTrainedModel, weights: dict[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Return what an adapter's file holds, by the names that peft gives.

    Args:
        model: with an adapter.
        weights: by their names in the model; None: its own.
    """
    from peft import get_peft_model_state_dict

    if weights is None:
        own = model.named_parameters(remove_duplicate=False)
        weights = {name: weight.detach() for name, weight in own}
    settings: Any = model.peft_config["default"]
    found = get_peft_model_state_dict(model, weights, save_embedding_layers=False)
    ends = tuple(f".{name}." for name in settings.modules_to_save or ())
    whole = {name: w for name, w in weights.items() if any(end in f".{name}" for end in ends)}
    return {PREFIX + name: weight for name, weight in {**found, **whole}.items()}


def computed_in_fp32(model: PreTrainedModel) -> set[str]:
    """Return the names of the weights that compute in fp32 in any precision: those of DoRA."""
    if not is_adapted(model):
        return set()
    settings: Any = model.peft_config["default"]
    names = (name for name, _ in model.named_parameters() if "lora_" in name)
    return set(names) if settings.use_dora else set()


def write_adapter(
    model: PreTrainedModel, folder: Path, weights: dict[str, Tensor] | None = None
) -> None:
    """Write the adapter's weights and config.

    Args:
        model: with an adapter.
        folder: where to.
        weights: replace those of the model, if given.
    """
    tensors = adapter_tensors(model, weights)
    # Copied, since a tied weight is there twice.
    copies = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    save_file(copies, folder / WEIGHTS, {"format": "pt"})
    settings: Any = model.peft_config["default"]
    values = {**settings.to_dict(), "inference_mode": True}
    # In order, so that equal adapters have equal files.
    ordered = {k: sorted(v) if isinstance(v, set) else v for k, v in sorted(values.items())}
    write_json(folder / ADAPTER_CONFIG, ordered)


def read_adapter(model: PreTrainedModel, folder: Path) -> None:
    """Load the weights that `write_adapter`, or peft, wrote to `folder` into the model's adapter.

    Raises:
        UserError: they can't be read, or are of another model.
    """
    own = adapter_tensors(model)
    try:
        stored = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{folder} has no {WEIGHTS} that can be read ({first_line(error)}); fetch it again."
        ) from error
    differing = sorted(own.keys() ^ stored.keys()) or [
        name for name, weight in own.items() if weight.shape != stored[name].shape
    ]
    if differing:
        raise UserError(
            f"{folder} does not fit its base: {differing[0]} is missing in one of them, or has "
            "another shape; check base_model_name_or_path in its adapter_config.json."
        )
    for name, weight in own.items():
        weight.copy_(stored[name])
