"""Load a model, pretrained or from scratch, and check it against its objective."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from lmft.adapter.adapter_files import trains_base_weights
from lmft.adapter.attach import attach_new, attach_saved, base_of
from lmft.config.model_knobs import AdapterConfig, ModelConfig, Quantize
from lmft.errors import UserError, did_you_mean, is_out_of_memory
from lmft.model.freeze import freeze
from lmft.model.probe import sees_future_tokens
from lmft.model.weights import load_pretrained
from lmft.objective import Objective
from lmft.storage.hub import find_base, hub_errors, pinned_revision


def silence_transformers() -> None:
    """Turn off transformers' progress bars and warnings; lmft reports itself what matters.

    Call this before transformers loads a tokenizer or a model.
    """
    logging.disable_progress_bar()
    logging.set_verbosity_error()


def load_model(
    config: ModelConfig,
    objective: Objective,
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
    adapter: AdapterConfig | None = None,
    dtype: torch.dtype = torch.float32,
) -> PreTrainedModel:
    """Load the model with the head that the objective trains, on the CPU.

    Weights that learn are in fp32.

    Args:
        config: what to load: a model, or a folder with an adapter.
        objective: that it is trained or scored with.
        tokenizer: of its texts.
        seed: of new weights.
        adapter: to attach, unless it is off.
        dtype: of an adapter's base; if weights of the base are trained, they are loaded in fp32.

    Raises:
        UserError: the model can't be loaded, or does not fit the objective or the tokenizer.
    """
    saved = None if config.name is None else find_base(config.name)
    if saved is not None:
        base, folder = replace(config, name=saved[0], revision=saved[1]), Path(str(config.name))
        dtype = torch.float32 if trains_base_weights(folder.expanduser()) else dtype
        model = load_base(base, objective, tokenizer, seed, dtype)
        attach_saved(model, folder.expanduser())
    elif adapter is not None and adapter.is_on:
        dtype = torch.float32 if adapter.trains_base_weights else dtype
        quantize = adapter.quantize is Quantize.nf4
        model = load_base(config, objective, tokenizer, seed, dtype, quantize)
        attach_new(model, adapter, base_of(config), objective.is_causal, seed)
    else:
        model = load_base(config, objective, tokenizer, seed)
        freeze(model, config.freeze)
    return model


def load_trained(
    folder: Path,
    config: ModelConfig,
    objective: Objective,
    tokenizer: PreTrainedTokenizerBase,
) -> PreTrainedModel:
    """Load a finished run's folder as transformers does; of an adapter, its base with it.

    Args:
        folder: of the run's best weights.
        config: of the run, which may change its base.
        objective: of the run.
        tokenizer: of the folder.
    """
    silence_transformers()
    if find_base(str(folder)):
        model = load_model(replace(config, name=str(folder)), objective, tokenizer, seed=0)
    else:
        model = objective.auto_model.from_pretrained(
            folder, trust_remote_code=config.trust_remote_code
        )
    model.eval()
    return model


def load_base(
    config: ModelConfig,
    objective: Objective,
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
    dtype: torch.dtype = torch.float32,
    quantize: bool = False,
) -> PreTrainedModel:
    """Load a model as `load_model` does, without an adapter."""
    silence_transformers()
    architecture = _architecture(config, tokenizer)
    if len(tokenizer) > architecture.vocab_size:
        knob = "model.name" if config.tokenizer is None else "model.tokenizer"
        raise UserError(
            f"{knob}={config.tokenizer or config.name} has a tokenizer of {len(tokenizer)} "
            f"entries, but the model only {architecture.vocab_size}; set model.tokenizer to the "
            "one that the model was trained with."
        )
    torch.manual_seed(seed)
    try:
        if config.from_scratch:
            with model_errors(config):
                model = objective.auto_model.from_config(
                    architecture, dtype=torch.float32, trust_remote_code=config.trust_remote_code
                )
        else:
            model = load_pretrained(config, objective, architecture, dtype, quantize)
    except ValueError as error:
        if "Unrecognized configuration class" not in str(error):
            raise
        raise UserError(
            f"model={config.label or config.name} ({architecture.model_type}) has no head for the "
            "objective; choose objective=clm for causal models, objective=mlm for masked ones."
        ) from error
    with model_errors(config):
        sees_future = objective.is_causal and sees_future_tokens(model)
    if sees_future:
        raise UserError(
            "objective=clm needs a causal model, but the predictions of model="
            f"{config.label or config.name} ({architecture.model_type}) depend on later tokens; "
            "choose objective=mlm, or a causal model such as model=gpt2."
        )
    loaded: PreTrainedModel = model
    return loaded


def _architecture(config: ModelConfig, tokenizer: PreTrainedTokenizerBase) -> PreTrainedConfig:
    if config.name is None:
        assert config.architecture is not None
        with model_errors(config):
            architecture = AutoConfig.for_model(**config.architecture)
    else:
        with hub_errors(f"model {config.name!r}"):
            revision = pinned_revision(config.name, config.revision)
            architecture = AutoConfig.from_pretrained(
                config.name, revision=revision, trust_remote_code=config.trust_remote_code
            )
    changes: dict[str, Any] = {}
    if config.from_scratch and config.tokenizer is not None:
        changes = {"vocab_size": len(tokenizer), **_special_token_ids(tokenizer)}
    if config.dropout is not None:
        rates = _dropout_settings(architecture)
        if config.dropout and not rates:
            raise UserError(
                f"model.dropout is {config.dropout}, but {type(architecture).__name__} has no "
                "dropout rate; leave model.dropout out."
            )
        changes |= dict.fromkeys(rates, config.dropout)
    changes |= config.config or {}
    for key, value in changes.items():
        if not hasattr(architecture, key):
            raise UserError(
                f"model.config has {key!r}, which {type(architecture).__name__} lacks."
                + did_you_mean(key, architecture.to_dict())
            )
        try:
            setattr(architecture, key, value)
        except StrictDataclassError as error:
            reason = str(error).splitlines()[-1].strip()
            raise UserError(f"model.config.{key} is {value!r}: {reason}.") from error
    return architecture


@contextmanager
def model_errors(config: ModelConfig) -> Iterator[None]:
    """Turn any error raised inside, where a model is built from `config`, into a UserError.

    Raises:
        UserError: no model can be built from these values.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # of any type: each model has code of its own
        if is_out_of_memory(error) or "Unrecognized configuration class" in str(error):
            raise
        reason = (str(error).strip() or "no reason given").splitlines()[0][:200].rstrip(".")
        values = {name: getattr(config, name) for name in ("name", "architecture", "config")}
        knobs = " and ".join(f"model.{name}={value}" for name, value in values.items() if value)
        raise UserError(
            f"No model can be built from {knobs} ({type(error).__name__}: {reason}); change it."
        ) from error


def _special_token_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int | None]:
    return {
        f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")
    }


def _dropout_settings(architecture: PreTrainedConfig) -> list[str]:
    """Return the names of the config's dropout rates, such as resid_pdrop, attention_dropout."""
    return [
        key
        for key, value in architecture.to_dict().items()
        if ("dropout" in key or key.endswith("pdrop"))
        and isinstance(value, int | float)  # many a config.json has 0 for 0.0
        and not isinstance(value, bool)
        and 0 <= value <= 1
    ]
