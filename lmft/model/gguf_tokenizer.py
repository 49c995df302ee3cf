"""Write a tokenizer into the metadata of a GGUF file."""

import json
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from lmft.dataset.tokenizer import find_separator
from lmft.errors import UserError

WAY_OUT = "transformers loads the folder as it is"  # where GGUF can't hold a model


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer as GGUF has it."""

    model: str  # llama: SentencePiece with bytes; gpt2: byte-level BPE
    splits: str  # llama.cpp's name of how a text is cut into words
    tokens: list[str]  # one for each row of the embedding
    scores: list[float]  # the higher, the earlier a pair is merged into the token
    kinds: list[int]  # gguf.TokenType
    merges: list[str]  # none of SentencePiece: scores stand for them


def describe_tokenizer(tokenizer: PreTrainedTokenizerBase, rows: int) -> Vocabulary:
    """Return a tokenizer as GGUF has it, with `rows` tokens.

    Raises:
        UserError: the tokenizer is another one.
    """
    from gguf import TokenType

    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = json.loads(backend.to_str()) if backend is not None else {"model": {}}
    model, splits = name_of_tokenizer(rules)
    by_id = {index: token for token, index in tokenizer.get_vocab().items()}
    tokens = [by_id.get(index, f"[PAD{index}]") for index in range(rows)]
    special = set(tokenizer.all_special_tokens)
    special |= {entry["content"] for entry in rules["added_tokens"] if entry["special"]}
    added = {entry["content"] for entry in rules["added_tokens"]}

    def kind(index: int) -> TokenType:
        token = tokens[index]
        if index not in by_id:
            return TokenType.UNUSED
        if token == tokenizer.unk_token and model == "llama":
            return TokenType.UNKNOWN
        if token in special:
            return TokenType.CONTROL
        if token in added:
            return TokenType.USER_DEFINED
        is_byte = model == "llama" and len(token) == 6 and token.startswith("<0x")
        return TokenType.BYTE if is_byte else TokenType.NORMAL

    pairs = [
        pair.split(" ") if isinstance(pair, str) else pair for pair in rules["model"]["merges"]
    ]
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(pairs):
        ranks.setdefault(left + right, rank)
    return Vocabulary(
        model,
        splits,
        tokens,
        [-float(ranks.get(token, len(pairs))) for token in tokens],
        [int(kind(index)) for index in range(rows)],
        [" ".join(pair) for pair in pairs] if model == "gpt2" else [],
    )


def name_of_tokenizer(rules: dict[str, Any]) -> tuple[str, str]:
    """Return GGUF's names of a tokenizer and of how it cuts texts, by its tokenizer.json.

    Raises:
        UserError: GGUF, or lmft's part of it, has none.
    """
    parts = rules.get("pre_tokenizer") or {"type": None}
    kinds = [part["type"] for part in parts.get("pretokenizers", [parts])]
    model = rules["model"]
    if model.get("type") == "BPE":
        if model["byte_fallback"] and kinds in ([None], ["Metaspace"]):
            return "llama", "default"
        bytes_only = kinds[-1:] == ["ByteLevel"] and not rules["normalizer"]
        if bytes_only and not parts.get("pretokenizers", [parts])[-1]["add_prefix_space"]:
            if kinds == ["ByteLevel"]:
                return "gpt2", "gpt-2"
            if kinds == ["Digits", "ByteLevel"] and parts["pretokenizers"][0]["individual_digits"]:
                return "gpt2", "smollm"
    raise UserError(
        "format=gguf takes tokenizers as of GPT-2, SmolLM and Llama 2, not this one "
        f"({model.get('type', 'written in Python')}, {' and '.join(map(str, kinds))}); "
        f"{WAY_OUT}."
    )


def add_tokenizer(writer: Any, tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
    """Add a tokenizer to the metadata.

    Args:
        writer: of the file.
        tokenizer: what to add.
        rows: of the embedding; unused tokens fill it up.

    Raises:
        UserError: GGUF, or lmft's part of it, can't hold this tokenizer.
    """
    vocabulary = describe_tokenizer(tokenizer, rows)
    around = find_separator("model", tokenizer)
    if len(around.before) > 1 or around.after not in ((), (tokenizer.eos_token_id,)):
        raise UserError(
            "format=gguf takes tokenizers that put at most one token before a text and its eos "
            "token after it; " + f"{WAY_OUT}."
        )
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.splits)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_scores(vocabulary.scores)
    writer.add_token_types(vocabulary.kinds)
    writer.add_token_merges(vocabulary.merges)
    ids = {
        "bos": around.before[0] if around.before else tokenizer.bos_token_id,
        "eos": tokenizer.eos_token_id,
        "unk": tokenizer.unk_token_id,
        "pad": tokenizer.pad_token_id,
        "mask": tokenizer.mask_token_id,
    }
    for name, index in ids.items():
        if index is not None:
            getattr(writer, f"add_{name}_token_id")(index)
    writer.add_add_bos_token(bool(around.before))
    writer.add_add_eos_token(bool(around.after))
    if vocabulary.model == "llama":
        writer.add_add_space_prefix(tokenizer("a", add_special_tokens=False).tokens()[0] != "a")
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)
