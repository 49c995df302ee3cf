"""Write an overview of a corpus as one HTML page that loads nothing from elsewhere."""

from functools import cache
from pathlib import Path
from typing import Any

from lmft.dataset.overview.describe import Overview
from lmft.dataset.overview.show import describe_hidden
from lmft.output.sanitize import strip_control


def as_html(overview: Overview) -> str:
    """Return the page; the same overview gives the same bytes."""
    most = max(one.share for one in overview.lengths.bins)
    page = load_template().render(overview=overview, most=most, describe_hidden=describe_hidden)
    return strip_control(page)


@cache  # compiling it takes longer than all else
def load_template() -> Any:
    """Return the template of the page."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string((Path(__file__).parent / "page.html").read_text())
