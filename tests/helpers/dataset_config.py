"""The config of a dataset, as `conf/dataset/text_files.yaml` gives it."""

from lmft.config.dataset_knobs import (
    Attention,
    DataKind,
    DatasetConfig,
    DocumentRule,
    Learn,
    LongDocuments,
    Packing,
    TextErrors,
)
from lmft.dataset.sources import TextFiles


def as_config(**changes):
    """The config with some values changed."""
    values = {
        "name": "text_files", "source": TextFiles("text"), "train": None, "validation": None,
        "test": None, "validation_fraction": 0.2, "text_column": "text", "delimiter": None,
        "errors": TextErrors.strict,
        "document": DocumentRule.auto, "separator": "eos", "block_size": 16,
        "max_documents": None, "drop_duplicates": False, "kind": DataKind.auto,
        "learn": Learn.auto, "chat_template": "tokenizer", "prompt_template": "none",
        "packing": Packing.auto, "attention": Attention.auto, "long": LongDocuments.split,
    }  # fmt: skip
    return DatasetConfig(**{**values, **changes})
