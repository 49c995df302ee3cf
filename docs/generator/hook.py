"""Hooks of MkDocs: add pages that are generated or kept outside of docs/, and check the site."""

import logging
import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from docs.generator.pages import ROOT, TOP_PAGES, generated_pages

DOCS = ROOT / "docs"
LINK = re.compile(r"\[([^\]]*)\]\(((?!\w+:)[^)#\s]+)(#[^)\s]*)?\)")
NAMED_BY_FILE = re.compile(r"\[[\w/.-]+\.md\](?=\(((?:\.\./)*[\w/-]+\.md)\))")
# What a browser would load from another host; links that a reader may follow are none.
LOADED = re.compile(
    r"<(?:script|img|iframe|link(?! rel=\"canonical\"))\b[^>]*=\"?(?:https?:)?//[^>]*>"
)

CELL = re.compile(r"<td\b.*?</td>", re.DOTALL)
CODE = re.compile(r"(?<=<code>)[^<]+")
SIGN = re.compile(r"(?<=\w)([/_.:=]+)(?=\w)")

logger = logging.getLogger("mkdocs.hooks.lmft")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are not in docs/."""
    for path, text in generated_pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: Any, files: Files) -> str:
    """Make links work that are written for the repository, where pages may be elsewhere."""
    source = ROOT / TOP_PAGES.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def relink(match: re.Match[str]) -> str:
        target = Path(os.path.normpath(source.parent / match[2]))
        if source.is_relative_to(DOCS) and target.is_relative_to(DOCS):
            return match[0]
        by_source = {ROOT / name: path for path, name in TOP_PAGES.items()}
        path = by_source.get(target) or os.path.relpath(target, DOCS)
        if files.get_file_from_path(path) is None and target.exists():
            return f"`{match[1].strip('`')}`"  # of the repository alone
        return (
            f"[{match[1]}]({os.path.relpath(path, Path(page.file.src_uri).parent)}{match[3] or ''})"
        )

    def name(match: re.Match[str]) -> str:
        """Put the title of a page where the repository shows the name of its file."""
        target = source.parent / match[1]
        first = target.read_text().splitlines()[0] if target.is_file() else ""
        return f"[{first[2:]}]" if first.startswith("# ") else match[0]

    return LINK.sub(relink, NAMED_BY_FILE.sub(name, markdown))


def on_page_content(html: str, page: Page, config: Any, files: Files) -> str:
    """Let long names in tables break after a sign, not in the middle of a word."""

    def may_break(cell: re.Match[str]) -> str:
        return CODE.sub(lambda code: SIGN.sub(r"\1<wbr>", code[0]), cell[0])

    return CELL.sub(may_break, html)


def on_post_page(output: str, page: Page, config: Any) -> str:
    """Warn if a browser would ask another host for a part of the page."""
    for found in LOADED.findall(output):
        logger.warning("%s loads from another host: %s", page.file.src_uri, found)
    return output
