"""From text to token ids: a model's own tokenizer, or one trained on the corpus."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lmft.errors import UserError
from lmft.storage.cache import build_once
from lmft.storage.hashing import digest
from lmft.storage.hub import hub_errors

FORMAT = 2  # of trained tokenizers; raised with each change of how they are trained

SPECIAL_TOKENS = {  # RoBERTa's, so that one tokenizer serves causal and masked models
    "bos_token": "<s>",
    "eos_token": "</s>",
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "mask_token": "<mask>",
}


def load_tokenizer(
    name: str, revision: str | None, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """The tokenizer of the hub model or local folder `name`.

    Raises:
        UserError: there is none.
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
        raise missing  # without its files, transformers makes one that knows no text
    return tokenizer


def train_tokenizer(texts: Iterator[str], vocab_size: int) -> PreTrainedTokenizerBase:
    """A byte-level BPE of at most `vocab_size` entries, learned from `texts`.

    Nothing is random: the same texts give the same tokenizer.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    least = len(alphabet) + len(SPECIAL_TOKENS)
    if vocab_size < least:
        raise UserError(
            f"model.vocab_size is {vocab_size}, but {len(alphabet)} bytes and "
            f"{len(SPECIAL_TOKENS)} special tokens need at least {least}."
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
    """The Rust tokenizer, or a copy that neither cuts nor pads; None for one written in Python."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None and (backend.truncation or backend.padding):
        backend = copy.deepcopy(backend)
        backend.no_truncation()
        backend.no_padding()
    return backend


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash of all that decides which ids a text becomes."""
    backend = text_backend(tokenizer)
    rules = tokenizer.get_vocab() if backend is None else backend.to_str()
    return digest([type(tokenizer).__name__, rules, tokenizer.special_tokens_map])


@dataclass(frozen=True)
class Separator:
    """What stands between documents: ids, ids around each one, or text."""

    between: tuple[int, ...] = ()
    before: tuple[int, ...] = ()  # each document
    after: tuple[int, ...] = ()
    text: str = ""  # joined before tokenizing


def find_separator(knob: str, tokenizer: PreTrainedTokenizerBase) -> Separator:
    """What `dataset.separator` means for this tokenizer.

    Raises:
        UserError: the tokenizer lacks the tokens that it asks for.
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
    # A shell hands on \n as two characters, and nobody means those.
    return Separator(text=knob.replace("\\n", "\n").replace("\\t", "\t"))


def open_trained_tokenizer(
    texts: Callable[[], Iterator[str]], corpus: str, vocab_size: int, cache_root: Path
) -> PreTrainedTokenizerBase:
    """The tokenizer trained on `texts`, whose digest is `corpus`: from the cache if it is there."""
    key = digest([corpus, vocab_size, FORMAT])
    folder = cache_root / "tokenizers" / key[:32]

    def train(place: Path) -> None:
        train_tokenizer(texts(), vocab_size).save_pretrained(place)

    build_once(folder, train)
    return load_tokenizer(str(folder), revision=None)
