"""The pages that the site has beside the files of docs/."""

from pathlib import Path

from docs.generator.hydra_page import hydra_page
from docs.generator.knob_facts import GROUPS
from docs.generator.knob_pages import group_page, index_page
from docs.generator.metrics_page import metrics_page
from docs.generator.verbs_page import verbs_page

ROOT = Path(__file__).parents[2]
# Pages of the site -> the files at the top of the repository that they show.
TOP_PAGES = {
    "security.md": "SECURITY.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
}


def generated_pages() -> dict[str, str]:
    """Return the text of each page that is not a file of docs/, by its path on the site."""
    return {
        **{path: (ROOT / name).read_text() for path, name in TOP_PAGES.items()},
        "reference/knobs/index.md": index_page(),
        **{f"reference/knobs/{group}.md": group_page(group) for group in GROUPS},
        "reference/knobs/hydra.md": hydra_page(),
        "reference/verbs.md": verbs_page(),
        "reference/metrics.md": metrics_page(),
    }
