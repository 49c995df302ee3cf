"""A comparison as Markdown and as one HTML page that loads nothing from elsewhere."""

import re
from dataclasses import dataclass
from pathlib import Path

from lmft.analysis.compare.paired import BITS
from lmft.analysis.compare.plots import curves, forest
from lmft.analysis.compare.ranking import Comparison, Ranking, letters
from lmft.analysis.compare.sentences import tell_apart, tell_ranking
from lmft.analysis.compare.tables import Table, pairs_table, ranking_table, runs_table
from lmft.output.sanitize import strip_control
from lmft.tracker.mlflow_query import Curve, read_curves

SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$&])")


@dataclass(frozen=True)
class Section:
    """What is said of the runs of one ranking."""

    title: str
    table: Table
    sentences: list[str]
    pairs: Table | None
    ranking: Ranking

    @property
    def pairs_title(self) -> str:
        """Over what the pairs were compared."""
        first = self.ranking.pairs[0]
        return f"Pairs, on the same {first.units:,} {first.unit}s"


def sections(comparison: Comparison) -> list[Section]:
    """One for each ranking: by loss, then by bits per byte."""
    found = []
    for ranking in [*comparison.rankings, *comparison.bytewise]:
        names, table = letters(ranking.runs), ranking_table(ranking)
        title = f"{names}, by {'bits per byte' if ranking.measure is BITS else 'loss'}"
        sentences = tell_ranking(ranking)
        pairs = pairs_table(ranking) if ranking.pairs else None
        found.append(Section(title, table, sentences, pairs, ranking))
    return found


def title_of(comparison: Comparison) -> str:
    """What was compared."""
    return f"{len(comparison.runs)} runs compared on {comparison.split}"


def as_markdown(comparison: Comparison, notes: list[str]) -> str:
    """The tables and sentences."""
    parts = [f"# {title_of(comparison)}", *map(escape_markdown, notes)]
    parts += [escape_markdown(sentence) for sentence in tell_apart(comparison)]
    for section in sections(comparison):
        parts += [f"## {escape_markdown(section.title)}", markdown_table(section.table)]
        parts += ["\n".join(f"- {escape_markdown(text)}" for text in section.sentences)]
        if section.pairs is not None:
            parts += [f"### {section.pairs_title}", markdown_table(section.pairs)]
    parts += ["## The runs", markdown_table(runs_table(comparison))]
    return "\n\n".join(part for part in parts if part) + "\n"


def markdown_table(table: Table) -> str:
    """A table of GitHub's Markdown."""
    lines = [
        table.header,
        ["--:" if n in table.numbers else "---" for n in range(len(table.header))],
    ]
    cells = [[escape_markdown(cell).replace("\n", "<br>") for cell in row] for row in table.rows]
    lines[0] = [escape_markdown(cell) for cell in lines[0]]
    return "\n".join("| " + " | ".join(row) + " |" for row in [*lines, *cells])


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is."""
    return SPECIAL.sub(r"\\\1", strip_control(text))


def as_page(comparison: Comparison, notes: list[str], found: dict[str, dict[str, Curve]]) -> str:
    """The HTML page; `found` has each run's curves by its letter."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string((Path(__file__).parent / "page.html").read_text())
    parts = []
    for section in sections(comparison):
        ranking = section.ranking
        shown = "" if ranking.measure is BITS else curves(ranking, found)
        several = len(ranking.runs) > 1
        parts.append(
            {
                "section": section,
                "forest": Markup(forest(ranking)) if several else "",
                "curves": Markup(shown),
            }
        )
    return template.render(
        title=title_of(comparison),
        notes=notes,
        apart=tell_apart(comparison),
        parts=parts,
        runs=runs_table(comparison),
    )


def as_texts(comparison: Comparison, notes: list[str]) -> dict[str, str]:
    """Markdown and page by file name, with the curves of the runs' folders."""
    found = {run.letter: read_curves(run.folder) for run in comparison.runs}
    return {
        "compare.md": as_markdown(comparison, notes),
        "compare.html": as_page(comparison, notes, found),
    }
