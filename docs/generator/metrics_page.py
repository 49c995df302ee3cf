"""The reference of the metrics: their names, units and when they are logged."""

import inspect
import re

from lmft import metrics

NAMED = re.compile(r"^[A-Z_]+ = \"([\w/]+)\"  # (.*)$", re.MULTILINE)
# Of an evaluation, after the name of its split.
SCORED = {
    "loss": "nats per target",
    "perplexity": "exp(loss), the number of equally likely tokens with the same loss",
    "nats": "sum over all targets",
    "targets": "number of scored tokens",
    "bits_per_byte": "bits per UTF-8 byte of the scored text; comparable across tokenizers",
    "word_perplexity": "exp(nats per word)",
    "bytes": "UTF-8 bytes of the scored text",
    "words": "words of the scored text, between white space",
    "loss_low": "lower end of the 95 % interval of the loss, in nats per target",
    "loss_high": "its upper end",
    "lost_characters": "share of the text that the tokenizer loses, in characters; if not 0",
    "mask_draws": "draws of masks that are scored; with `evaluation.mask_draws` above 1",
    "loss_deviation": "standard deviation of the loss over these draws",
}


def metrics_page() -> str:
    """Return the page."""
    named = NAMED.findall(inspect.getsource(metrics))
    by_name = dict(named)
    once = [name for name in by_name if not name.startswith(("train/", "validation/"))]
    steps = [name for name in by_name if name.startswith("train/")]
    return INTRO.format(
        steps=_table({name: by_name[name] for name in steps}),
        once=_table({name: by_name[name] for name in once}),
        scored=_table({f"SPLIT/{name}": text for name, text in SCORED.items()}),
    )


def _table(rows: dict[str, str]) -> str:
    return "\n".join(
        ["| metric | meaning, unit |", "|---|---|"] + [f"| `{n}` | {t} |" for n, t in rows.items()]
    )


INTRO = """\
# Metrics

All metrics are in `metrics.jsonl` of the run's folder, with step and time, and in MLflow under
the same names; `lmft.load(RUN).metrics` returns them as a table.

## Of each optimizer step

{steps}

## Of each evaluation

`SPLIT` is `validation` before step 1, each `trainer.evaluate_every` steps and at the end; `test`
once, at the end, with the best weights; and the split that `lmft evaluate` scores. During
training, the first four are logged; for the best weights, all. What a loss counts, its unit, is
in the label: `per token`, `per completion token` or, of a masked model, `per hidden token, 15%
hidden` ([evaluation](../evaluation.md)).

{scored}

## Once

{once}

`tracker.system_metrics=true` adds MLflow's `system/…` each 10 seconds, in MLflow alone. What
depends on the clock is not a metric but under `timing` in `result.json`: `seconds`,
`tokens_per_second`, `peak_memory_bytes`.
"""
