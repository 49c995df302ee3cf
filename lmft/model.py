"""Models: pretrained or from scratch, read, checked against their objective, and written."""

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from lmft.errors import UserError, did_you_mean
from lmft.hub import hub_errors, resolve_commit
from lmft.identity import digest, digest_files
from lmft.objective import Objective

logger = logging.getLogger(__name__)
disable_progress_bar()  # of reading and writing weights, which takes a moment
set_verbosity_error()  # what a user must know, we say ourselves

CORPUS = "corpus"  # model.tokenizer: trained on the training split


@dataclass
class ModelConfig:
    """The `model` group."""

    label: str | None  # for folder names and tables; null: the last part of `name`
    name: str | None  # a hub model, or a local folder
    revision: str  # of the hub model
    architecture: dict[str, Any] | None  # model_type and its config's values, if no name gives it
    from_scratch: bool  # the architecture with new weights
    config: dict[str, Any] | None  # changes to the architecture's config
    tokenizer: str | None  # a hub model or folder, or `corpus`; null: the model's own
    vocab_size: int  # of a tokenizer trained on the corpus
    dropout: float | None  # of every kind that the architecture has; null: its own

    def check(self) -> None:
        """Refuse combinations that can't be built."""
        if self.name is None and not (self.from_scratch and self.architecture):
            raise UserError("model.name has no value; set it to a hub model or a local folder.")
        if self.tokenizer == CORPUS and not self.from_scratch:
            raise UserError(
                "model.tokenizer is 'corpus', but pretrained weights know only their own "
                "tokenizer; add model.from_scratch=true, or leave model.tokenizer out."
            )
        if self.tokenizer is None and self.name is None:
            raise UserError("model.tokenizer has no value; set model.tokenizer=corpus.")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise UserError(f"model.dropout must lie in [0, 1), not {self.dropout}.")
        if self.name is not None:
            locate(self.name, "model.name")


def locate(name: str, knob: str) -> Path | None:
    """The local folder that `name` means, or None for a model of the hub."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UserError(f"{knob} is {name!r}, but there is no such folder; check the path.")
    return None


def pinned_revision(name: str, revision: str, knob: str = "model.name") -> str | None:
    """The commit of a hub model; None for a local folder."""
    return None if locate(name, knob) else resolve_commit(name, revision, "model")


def content_digest(name: str, revision: str, knob: str = "model.name") -> str:
    """A hash that changes with the content of a local folder, or a hub model's commit."""
    folder = locate(name, knob)
    if folder is None:
        return digest([name, resolve_commit(name, revision, "model")])
    read_by_people = (".md", ".svg")  # a card, which tells the time
    files = sorted(
        path for path in folder.iterdir() if path.is_file() and path.suffix not in read_by_people
    )
    return digest([[path.name for path in files], digest_files(files)])


def load_model(
    config: ModelConfig, objective: Objective, tokenizer: PreTrainedTokenizerBase, seed: int
) -> PreTrainedModel:
    """The model under the head that the objective trains, in fp32, on the CPU.

    New weights are drawn from `seed`.

    Raises:
        UserError: the model can't be had, or does not suit the objective or the tokenizer.
    """
    architecture = _architecture(config, tokenizer)
    if len(tokenizer) > architecture.vocab_size:
        raise UserError(
            f"The tokenizer has {len(tokenizer)} entries, but the model only "
            f"{architecture.vocab_size}; leave model.tokenizer out."
        )
    torch.manual_seed(seed)
    try:
        if config.from_scratch:
            model = objective.auto_model.from_config(architecture, dtype=torch.float32)
        else:
            model = _load_weights(config, objective, architecture)
    except ValueError as error:
        if "Unrecognized configuration class" not in str(error):
            raise
        raise UserError(
            f"model={config.label} ({architecture.model_type}) has no head for the objective; "
            "choose objective=clm for causal models, objective=mlm for masked ones."
        ) from error
    if objective.ahead and sees_ahead(model):
        raise UserError(
            f"objective=clm needs a model that reads left to right, but model={config.label} "
            f"({architecture.model_type}) sees ahead; choose objective=mlm, or a causal model "
            "such as model=gpt2."
        )
    loaded: PreTrainedModel = model
    return loaded


def _load_weights(
    config: ModelConfig, objective: Objective, architecture: PreTrainedConfig
) -> PreTrainedModel:
    assert config.name is not None
    model: PreTrainedModel
    model, report = objective.auto_model.from_pretrained(
        config.name,
        config=architecture,
        revision=pinned_revision(config.name, config.revision),
        dtype=torch.float32,
        use_safetensors=True,
        output_loading_info=True,
    )
    if report["missing_keys"]:
        logger.warning(
            "%s has no weights for %s; they start at random.",
            config.name,
            ", ".join(sorted(report["missing_keys"])[:4]),
        )
    return model


def _architecture(config: ModelConfig, tokenizer: PreTrainedTokenizerBase) -> PreTrainedConfig:
    if config.name is None:
        assert config.architecture is not None
        architecture = AutoConfig.for_model(**config.architecture)
    else:
        with hub_errors(f"model {config.name!r}"):
            revision = pinned_revision(config.name, config.revision)
            architecture = AutoConfig.from_pretrained(config.name, revision=revision)
    changes: dict[str, Any] = {}
    if config.from_scratch and config.tokenizer is not None:
        changes = {"vocab_size": len(tokenizer), **_special_ids(tokenizer)}
    if config.dropout is not None:
        changes |= dict.fromkeys(_dropouts(architecture), config.dropout)
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


def _special_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int | None]:
    return {
        f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")
    }


def _dropouts(architecture: PreTrainedConfig) -> list[str]:
    """The config's names for dropout rates: resid_pdrop, attention_dropout and their like."""
    return [
        key
        for key, value in architecture.to_dict().items()
        if isinstance(value, float) and ("dropout" in key or key.endswith("pdrop"))
    ]


@torch.no_grad()
def sees_ahead(model: PreTrainedModel) -> bool:
    """Whether a prediction changes with a token that comes after it."""
    model.eval()
    first = torch.arange(8).remainder(model.config.vocab_size)[None]  # (1, T)
    second = first.clone()
    second[0, -1] += 1
    before, after = (model(input_ids=ids).logits[0, :-1] for ids in (first, second))
    return not torch.allclose(before, after, rtol=1e-3, atol=1e-4)


def context_size(model: PreTrainedModel) -> int | None:
    """The most tokens that the model can read at once; None where nothing limits it."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding):
            taken = 0 if module.padding_idx is None else module.padding_idx + 1  # as in RoBERTa
            return module.num_embeddings - taken
    size = getattr(model.config, "max_position_embeddings", None)
    return None if size is None or size < 1 else int(size)


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write an ordinary Hugging Face folder, whole or not at all."""
    temporary, old = (
        folder.with_name(f".{folder.name}-new"),
        folder.with_name(f".{folder.name}-old"),
    )
    for rubbish in (temporary, old):
        shutil.rmtree(rubbish, ignore_errors=True)
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    if folder.exists():
        folder.rename(old)
    temporary.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def load_weights(model: PreTrainedModel, folder: Path) -> None:
    """Put the weights that `save_model` wrote to `folder` into `model`."""
    from safetensors.torch import load_model as load_tensors

    load_tensors(model, folder / "model.safetensors")
