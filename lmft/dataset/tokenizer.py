"""Load a model's tokenizer or train one on the corpus; resolve the document separator."""

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lmft.errors import UserError
from lmft.storage.cache import build_once
from lmft.storage.hashing import digest
from lmft.storage.hub import hub_errors

FORMAT = 2  # version of tokenizer training; raise it if training changes
SPECIAL_TOKENS = {  # of RoBERTa, so that one tokenizer works for causal and masked models
    "bos_token": "<s>",
    "eos_token": "</s>",
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "mask_token": "<mask>",
}


# In tokenizer_config.json of a checkpoint: what the tokenizer added to a text in training.
TRAINING_PROCESSOR = "lmft_post_processor"


def load_tokenizer(
    name: str, revision: str | None, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """Load the tokenizer of the hub model or local folder `name`.

    Raises:
        UserError: it has none, or needs model.trust_remote_code=true.
    """
    missing = UserError(
        f"No tokenizer can be read from {name!r}; set model.tokenizer to a folder or hub model "
        "that has one."
    )
    with hub_errors(f"tokenizer of {name!r}"):
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                name, revision=revision, trust_remote_code=trust_remote_code
            )
        except ValueError as error:
            if "trust_remote_code" in str(error):
                raise
            raise missing from error
    if len(tokenizer) <= len(set(tokenizer.all_special_tokens)):
        raise missing  # without its files transformers returns a tokenizer with special tokens only
    if rules := tokenizer.init_kwargs.pop(TRAINING_PROCESSOR, None):
        tokenizer.backend_tokenizer.post_processor = _post_processor(rules)
    return tokenizer


def save_tokenizer(
    tokenizer: PreTrainedTokenizerBase, folder: Path, before: tuple[int, ...] | None = None
) -> None:
    """Write the tokenizer's files to `folder`.

    Args:
        tokenizer: what to write.
        folder: where to.
        before: the ids that transformers is to put before a prompt, with none after it;
            `load_tokenizer` still returns `tokenizer` as it is. None: as `tokenizer` does.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if before is not None and backend is not None:
        tokenizer = copy.deepcopy(tokenizer)
        rules = json.loads(tokenizer.backend_tokenizer.to_str())["post_processor"]
        tokenizer.init_kwargs[TRAINING_PROCESSOR] = rules
        tokenizer.backend_tokenizer.post_processor = _prefix_processor(before, tokenizer)
    tokenizer.save_pretrained(folder)


def _prefix_processor(ids: tuple[int, ...], tokenizer: PreTrainedTokenizerBase) -> Any:
    """Return the rules that put `ids` before a text."""
    from tokenizers import processors

    tokens = list(zip(tokenizer.convert_ids_to_tokens(list(ids)), ids, strict=True))
    template = " ".join([*(token for token, _ in tokens), "$A"])
    return processors.TemplateProcessing(single=template, special_tokens=tokens)


def _post_processor(rules: dict[str, Any]) -> Any:
    """Return the rules of a tokenizer.json about special tokens as an object."""
    from tokenizers import Tokenizer, models

    empty = json.loads(Tokenizer(models.BPE()).to_str())
    return Tokenizer.from_str(json.dumps({**empty, "post_processor": rules})).post_processor


def train_tokenizer(texts: Iterator[str], vocab_size: int) -> PreTrainedTokenizerBase:
    """Train a byte-level BPE tokenizer of at most `vocab_size` entries on `texts`.

    Training is deterministic: the same texts give the same tokenizer.

    Raises:
        UserError: `vocab_size` is too small for all bytes and special tokens.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    smallest = len(alphabet) + len(SPECIAL_TOKENS)
    if vocab_size < smallest:
        raise UserError(
            f"model.vocab_size is {vocab_size}, but {len(alphabet)} bytes and "
            f"{len(SPECIAL_TOKENS)} special tokens need at least {smallest}."
        )
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS.values()),
        initial_alphabet=sorted(alphabet),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    ids = bpe.get_vocab()
    bpe.post_processor = processors.RobertaProcessing(
        ("</s>", ids["</s>"]), ("<s>", ids["<s>"]), trim_offsets=False, add_prefix_space=False
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, cls_token="<s>", sep_token="</s>", **SPECIAL_TOKENS
    )


def text_backend(tokenizer: PreTrainedTokenizerBase) -> Any | None:
    """Return the Rust tokenizer without truncation and padding; None for one written in Python."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None and (backend.truncation or backend.padding):
        backend = copy.deepcopy(backend)
        backend.no_truncation()
        backend.no_padding()
    return backend


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a hash of everything that decides which ids a text becomes."""
    backend = text_backend(tokenizer)
    rules = tokenizer.get_vocab() if backend is None else backend.to_str()
    return digest([type(tokenizer).__name__, rules, tokenizer.special_tokens_map])


@dataclass(frozen=True)
class Separator:
    """What marks the boundaries of documents: ids between them, ids around each, or text."""

    between: tuple[int, ...] = ()  # ids between two documents
    before: tuple[int, ...] = ()  # ids before each document
    after: tuple[int, ...] = ()  # ids after each document
    text: str = ""  # put between documents before all of them are tokenized as one text


def find_separator(knob: str, tokenizer: PreTrainedTokenizerBase) -> Separator:
    """Return what the value `knob` of dataset.separator means for this tokenizer.

    Args:
        knob: none, eos, model (the special tokens that the tokenizer adds to a text), or a text.
        tokenizer: has the special tokens.

    Raises:
        UserError: the tokenizer lacks a token for it.
    """
    if knob == "none":
        return Separator()
    if knob == "eos":
        for token_id in (tokenizer.eos_token_id, tokenizer.sep_token_id):
            if token_id is not None:
                return Separator(between=(int(token_id),))
        raise UserError(
            "dataset.separator is 'eos', but the tokenizer has neither an eos nor a sep token; "
            'set dataset.separator to none or to a text such as "\\n\\n".'
        )
    if knob == "model":
        bare, wrapped = (
            tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True)
        )
        start = next(i for i in range(len(wrapped)) if wrapped[i : i + len(bare)] == bare)
        return Separator(before=tuple(wrapped[:start]), after=tuple(wrapped[start + len(bare) :]))
    return Separator(text=unescape(knob))


def unescape(text: str) -> str:
    """Return the text that a knob means; shells pass a line end as a backslash and an n."""
    return text.replace("\\n", "\n").replace("\\t", "\t")


def open_trained_tokenizer(
    texts: Callable[[], Iterator[str]], corpus: str, vocab_size: int, cache_root: Path
) -> PreTrainedTokenizerBase:
    """Return a tokenizer trained on `texts`, from the cache if possible.

    Args:
        texts: called to read the corpus, if the cache does not have the tokenizer.
        corpus: digest of the texts.
        vocab_size: entries, at most.
        cache_root: the folder of the cache.
    """
    key = digest([corpus, vocab_size, FORMAT])
    folder = cache_root / "tokenizers" / key[:32]

    def train(temporary: Path) -> None:
        train_tokenizer(texts(), vocab_size).save_pretrained(temporary)

    build_once(folder, train)
    return load_tokenizer(str(folder), revision=None)
