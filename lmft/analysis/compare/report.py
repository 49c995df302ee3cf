"""Write a comparison as Markdown and as one HTML page that loads nothing from elsewhere."""

import time
from dataclasses import dataclass
from pathlib import Path

from lmft.analysis.compare.paired import BITS
from lmft.analysis.compare.plots import MOST_CURVES, Losses, draw_curves, draw_intervals
from lmft.analysis.compare.ranking import Comparison, Ranking, join_letters
from lmft.analysis.compare.sentences import (
    caveat_sentences,
    pair_sentences,
    selection_sentence,
    separation_sentences,
    significance_sentences,
)
from lmft.analysis.compare.settings import TITLE as SETTINGS
from lmft.analysis.compare.settings import have_seeds, settings_sentences, settings_table
from lmft.analysis.compare.tables import Table, pairs_table, ranking_table, runs_table
from lmft.output.markdown import escape, table
from lmft.tracker.run_log import read_losses


@dataclass(frozen=True)
class Section:
    """What the report has about one ranking."""

    title: str
    table: Table
    settings: Table | None
    sentences: list[str]
    pairs: Table | None
    ranking: Ranking

    @property
    def pairs_title(self) -> str:
        """On what the pairs were compared."""
        first = self.ranking.pairs[0]
        return f"Pairs, on the same {first.units:,} {first.unit}s"


def build_sections(comparison: Comparison) -> list[Section]:
    """Return a section for each ranking: by loss, then by bits per byte."""
    sections = []
    for ranking in [*comparison.rankings, *comparison.bytewise]:
        measure = "bits per byte" if ranking.measure is BITS else "loss"
        sections.append(
            Section(
                title=f"{join_letters(ranking.runs)}, by {measure}",
                table=ranking_table(ranking),
                settings=settings_table(ranking),
                sentences=ranking_sentences(ranking),
                pairs=pairs_table(ranking) if ranking.pairs else None,
                ranking=ranking,
            )
        )
    return sections


def ranking_sentences(ranking: Ranking) -> list[str]:
    """Compare settings over seeds, or single runs where no setting has several; add caveats."""
    if len(ranking.runs) < 2:
        return []
    seeds = have_seeds(ranking)
    compared = settings_sentences(ranking) if seeds else pair_sentences(ranking)
    return compared + significance_sentences(ranking, seeds) + caveat_sentences(ranking)


def title_of(comparison: Comparison) -> str:
    """Return the title of the report."""
    return f"{len(comparison.runs)} runs compared on {comparison.split}"


def subtitle_of(comparison: Comparison, name: str) -> str:
    """Return the name of the sweep or experiment, if any, and when its runs ended."""
    files = [
        run.folder / file for run in comparison.runs for file in ("result.json", "evaluations.json")
    ]
    ends = [file.stat().st_mtime for file in files if file.exists()]
    days = [time.strftime("%Y-%m-%d", time.localtime(end)) for end in sorted(ends)]
    when = days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"
    return " · ".join(part for part in (name, f"runs of {when}") if part)


def as_markdown(comparison: Comparison, notes: list[str], name: str = "") -> str:
    """Return tables and sentences as Markdown."""
    subtitle = subtitle_of(comparison, name)
    parts = [f"# {title_of(comparison)}", escape(subtitle), *map(escape, notes)]
    parts += [escape(sentence) for sentence in separation_sentences(comparison)]
    parts += [escape(selection_sentence(comparison))]
    for section in build_sections(comparison):
        parts += [f"## {escape(section.title)}", markdown_table(section.table)]
        if section.settings is not None:
            parts += [f"### {SETTINGS}", markdown_table(section.settings)]
        parts += ["\n".join(f"- {escape(sentence)}" for sentence in section.sentences)]
        if section.pairs is not None:
            parts += [f"### {section.pairs_title}", markdown_table(section.pairs)]
    parts += ["## The runs", markdown_table(runs_table(comparison))]
    return "\n\n".join(part for part in parts if part) + "\n"


def markdown_table(cells: Table) -> str:
    """Return a table as Markdown."""
    return table(cells.header, cells.rows, cells.numbers)


def as_html(
    comparison: Comparison, notes: list[str], losses: dict[str, Losses], name: str = ""
) -> str:
    """Return the HTML page.

    Args:
        comparison: of the runs.
        notes: shown first.
        losses: of each run, by its letter.
        name: of the sweep or experiment.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string((Path(__file__).parent / "page.html").read_text())
    parts = []
    for section in build_sections(comparison):
        ranking = section.ranking
        intervals = draw_intervals(ranking) if len(ranking.runs) > 1 else ""
        curves = "" if ranking.measure is BITS else draw_curves(ranking, losses)
        parts.append(
            {
                "section": section,
                "intervals": Markup(intervals),
                "curves": Markup(curves),
                "undrawn": max(0, len(ranking.runs) - MOST_CURVES),
            }
        )
    return template.render(
        title=title_of(comparison),
        subtitle=subtitle_of(comparison, name),
        notes=notes,
        separation=separation_sentences(comparison),
        selection=selection_sentence(comparison),
        settings_title=SETTINGS,
        parts=parts,
        runs=runs_table(comparison),
    )


def report_files(comparison: Comparison, notes: list[str], name: str = "") -> dict[str, str]:
    """Return the report as text files, by name; loss curves are read from the runs' folders.

    Args:
        comparison: of the runs.
        notes: shown first.
        name: of the sweep or experiment that the runs belong to.
    """
    losses = {run.letter: read_losses(run.folder) for run in comparison.runs}
    return {
        "compare.md": as_markdown(comparison, notes, name),
        "compare.html": as_html(comparison, notes, losses, name),
    }
