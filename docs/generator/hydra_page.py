"""The reference of launchers and sweepers, which Hydra runs."""

from pathlib import Path

import yaml

from docs.generator.knob_facts import as_yaml, range_text
from docs.generator.knob_pages import escape, sentence
from lmft.config import CONF
from lmft.config.comments import read_comments, top_comment
from lmft.config.knobs import flatten
from lmft.config.ranges import RANGES

INTRO = """\
# Launchers and sweepers

`lmft -m` runs a sweep: `hydra/sweeper=CHOICE` says which combinations of values,
`hydra/launcher=CHOICE` where their jobs run. [Sweeps](../../sweeps.md) explains both, with
Hydra's own launchers `basic`, `joblib` and `submitit_local`."""


def hydra_page() -> str:
    """Return the page: for each choice what it is, and its knobs."""
    parts = [INTRO]
    for group in ("sweeper", "launcher"):
        for path in sorted((CONF / "hydra" / group).glob("*.yaml")):
            parts += [f"## hydra/{group}={path.stem}", sentence(top_comment(path))]
            parts.append("\n".join(_lines(group, path)))
    return "\n\n".join(parts) + "\n"


def _lines(group: str, path: Path) -> list[str]:
    comments, values = read_comments(path), yaml.safe_load(path.read_text())
    values.pop("defaults", None)
    lines = []
    for name, value in flatten(values).items():
        full = f"hydra.{group}.{name}"
        about = [f"`{full}`, default `{as_yaml(value)}`"]
        about += [range_text(RANGES[full])] if full in RANGES else []
        text = comments.get(name, "")
        lines.append(f"- {'; '.join(about)}{f': {escape(text)}' if text else ''}")
    return lines
