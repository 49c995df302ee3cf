"""Load an adapter with its base, to predict: the `loader_module` of a logged model of MLflow.

MLflow copies this file into the model, so that serving it needs peft and transformers, not lmft.
"""

import json
from pathlib import Path
from typing import Any


class TextModel:
    """A model that continues texts, or fills their mask."""

    def __init__(self, pipeline: Any):
        """Keep the pipeline of transformers that answers."""
        self._pipeline = pipeline

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> list[str]:
        """Return the answer to each text: the text continued, or what its mask stands for.

        Args:
            model_input: the texts, as a list or the first column of a DataFrame.
            params: of generation, such as max_new_tokens.
        """
        texts = list(model_input.iloc[:, 0] if hasattr(model_input, "iloc") else model_input)
        found = self._pipeline(texts, **(params or {}))
        if self._pipeline.task == "fill-mask":
            rows = found if isinstance(found[0], list) else [found]  # one text: its guesses alone
            return [str(row[0]["token_str"]).strip() for row in rows]
        return [str(row[0]["generated_text"]).strip() for row in found]


def _load_pyfunc(path: str) -> TextModel:
    """Return the model of an adapter's folder, as MLflow asks for it."""
    import transformers
    from peft import PeftModel

    settings = json.loads(Path(path, "adapter_config.json").read_text())
    is_causal = settings["task_type"] == "CAUSAL_LM"
    kind: Any = (
        transformers.AutoModelForCausalLM if is_causal else transformers.AutoModelForMaskedLM
    )
    base = kind.from_pretrained(
        settings["base_model_name_or_path"], revision=settings["revision"] or "main"
    )
    model = PeftModel.from_pretrained(base, path).merge_and_unload()
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    build: Any = transformers.pipeline
    task = "text-generation" if is_causal else "fill-mask"
    return TextModel(build(task, model=model, tokenizer=tokenizer))
