"""Attach an adapter to a model: a new one, or one from a folder."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lmft.adapter.adapter_files import read_adapter, whole_modules
from lmft.config.model_knobs import AdapterConfig, AdapterKind, ModelConfig, Quantize
from lmft.config.training_knobs import AUTO
from lmft.errors import UserError, did_you_mean, first_line
from lmft.hardware.layers import find_layers
from lmft.storage.hub import find_base, pinned_revision

LINEAR = (nn.Linear, Conv1D)


@dataclass(frozen=True)
class Base:
    """What an adapter belongs to, as its folder names it."""

    name: str
    revision: str | None  # a commit of the hub; None for a local folder


def check_adapter(model: ModelConfig, adapter: AdapterConfig) -> None:
    """Check the knobs of an adapter against those of the model.

    Raises:
        UserError: they do not fit, or a package is missing.
    """
    saved = None if model.name is None else find_base(model.name)
    if not adapter.is_on and saved is None:
        return
    knob = f"adapter={adapter.kind.value}"
    if find_spec("peft") is None:
        what = knob if adapter.is_on else f"model.name={model.name} is an adapter, which"
        raise UserError(f"{what} needs peft; pip install 'lmft[lora]'.")
    if model.freeze:
        what = knob if adapter.is_on else f"model.name={model.name}"
        raise UserError(
            f"model.freeze is set, but the base of {what} is frozen already; leave it out."
        )
    if adapter.is_on and saved is not None:
        raise UserError(
            f"model.name={model.name} is an adapter already; leave {knob} out to train that one, "
            "or merge it into its base first with lmft merge."
        )
    if model.from_scratch:
        raise UserError(
            f"{knob} adapts pretrained weights, but model.from_scratch is true; choose a "
            "pretrained model, as in model=pretrained model.name=NAME, or leave the adapter out."
        )
    if adapter.quantize is Quantize.nf4 and find_spec("bitsandbytes") is None:
        raise UserError(
            "adapter.quantize is nf4, which bitsandbytes computes, and it is not installed here; "
            "leave it out, or pip install bitsandbytes."
        )


def base_of(model: ModelConfig) -> Base:
    """Return the base of a new adapter, as its folder names it: found from anywhere."""
    assert model.name is not None
    commit = pinned_revision(model.name, model.revision)
    return Base(model.name if commit else str(Path(model.name).absolute()), commit)


def attach_new(
    model: PreTrainedModel, config: AdapterConfig, base: Base, is_causal: bool, seed: int
) -> None:
    """Freeze the model and attach a new adapter to it, in fp32; it changes no output yet.

    Raises:
        UserError: adapter.targets names nothing that can be adapted.
    """
    from peft import LoraConfig, inject_adapter_in_model

    assert config.rank is not None and config.bias is not None
    modules = dict(model.named_modules())
    whole = whole_modules(model, config.train_also or [])
    torch.manual_seed(seed)
    with target_errors(config):
        targets = find_targets(model, config.targets)
        settings: Any = LoraConfig(
            base_model_name_or_path=base.name,
            revision=base.revision,
            task_type="CAUSAL_LM" if is_causal else None,
            r=config.rank,
            lora_alpha=config.alpha or 2 * config.rank,  # type: ignore[arg-type]  # a float is fine
            lora_dropout=config.dropout or 0.0,
            bias=config.bias.value,
            use_dora=config.kind is AdapterKind.dora,
            target_modules=targets,
            fan_in_fan_out=any(isinstance(module, Conv1D) for module in modules.values()),
        )
        inject_adapter_in_model(settings, model)
    settings.modules_to_save = whole or None
    make_trainable(model)


def attach_saved(model: PreTrainedModel, folder: Path) -> None:
    """Freeze the model and attach the adapter of a folder to it, in fp32.

    Raises:
        UserError: it is of another kind or another base.
    """
    from peft import LoraConfig, PeftConfig, inject_adapter_in_model

    settings: Any = PeftConfig.from_pretrained(str(folder))
    if not isinstance(settings, LoraConfig):
        raise UserError(
            f"model.name={folder} is an adapter of the kind {settings.peft_type.value}, but lmft "
            "trains only LoRA and DoRA; merge it with peft, and name the merged model."
        )
    whole, settings.modules_to_save = settings.modules_to_save, None
    settings.inference_mode = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Conv1D beside Linear
            inject_adapter_in_model(settings, model)
    except ValueError as error:
        raise UserError(
            f"model.name={folder} does not fit its base ({first_line(error):.150}); check "
            "base_model_name_or_path in its adapter_config.json."
        ) from error
    settings.modules_to_save = whole
    make_trainable(model)
    read_adapter(model, folder)


def merge_adapter(model: PreTrainedModel) -> None:
    """Add the adapter to the weights of the model, and remove it."""
    from peft.tuners.lora import LoraLayer

    adapted = [(name, m) for name, m in model.named_modules() if isinstance(m, LoraLayer)]
    for name, module in adapted:
        module.merge()
        parent, _, own_name = name.rpartition(".")
        setattr(model.get_submodule(parent), own_name, module.get_base_layer())
    del model.peft_config


def make_trainable(model: PreTrainedModel) -> None:
    """Turn on gradients of what peft calls modules to save; convert all that learns to fp32."""
    settings: Any = model.peft_config["default"]
    for name, module in model.named_modules():
        if any(name == end or name.endswith(f".{end}") for end in settings.modules_to_save or ()):
            module.requires_grad_(True)
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()


def find_targets(model: PreTrainedModel, targets: Any) -> list[str]:
    """Return the modules to adapt by full names, or by how these end.

    Raises:
        UserError: a name is that of no module, or a pattern fits none.
    """
    if targets == AUTO:
        return linear_maps(model)
    modules = dict(model.named_modules())
    if isinstance(targets, str):
        maps = [name for name, module in modules.items() if isinstance(module, LINEAR)]
        if found := [name for name in maps if re.fullmatch(targets, name)]:
            return found
        raise UserError(
            f"adapter.targets={targets} fits no linear map; their names are like {maps[0]}."
        )
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in modules):
            maps = sorted({name.rpartition(".")[2] for name in linear_maps(model)})
            raise UserError(
                f"adapter.targets has {target!r}, which {type(model).__name__} lacks; choose from "
                f"{', '.join(maps)}.{did_you_mean(str(target), maps)}"
            )
    return list(targets)


def linear_maps(model: PreTrainedModel) -> list[str]:
    """Return the full names of all linear maps of the layers; without the head, at any rate."""
    inside = {id(part) for layer in find_layers(model) for part in layer.modules()}
    head = model.get_output_embeddings()
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, LINEAR)
        and module is not head
        and (id(module) in inside or not inside)
    ]


@contextmanager
def target_errors(config: AdapterConfig) -> Iterator[None]:
    """Explain why peft refuses adapter.targets.

    Raises:
        UserError: it does.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Conv1D beside Linear
            yield
    except UserError:
        raise
    except (ValueError, re.error) as error:
        raise UserError(
            f"adapter.targets={config.targets} can't be adapted ({first_line(error):.150}); set it "
            "to auto, or name linear maps."
        ) from error
