"""The commands in the shell blocks of a Markdown page."""

import re
import shlex
from collections.abc import Iterator

BLOCK = re.compile(r"^```(?:sh|bash)\n(.*?)^```", re.DOTALL | re.MULTILINE)
INDENTED = re.compile(r"^    (lmft .*(?:\n {4,}.*)*)", re.MULTILINE)
OPERATORS = {"&&", "||", "|", ";", "&"}
ASSIGNED = re.compile(r"[A-Z_]+=.*")


def commands_of(page: str) -> Iterator[list[str]]:
    """Yield the words of each command of a page, without redirections, joined lines as one."""
    for block in [*BLOCK.findall(page), *INDENTED.findall(page)]:
        for line in block.replace("\\\n", " ").splitlines():
            yield from _simple_commands(line)


def _simple_commands(line: str) -> Iterator[list[str]]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split, lexer.commenters = True, "#"
    words: list[str] = []
    tokens = iter(lexer)
    for token in tokens:
        if token in OPERATORS:
            yield from [words] if words else []
            words = []
        elif set(token) <= {"<", ">"}:
            next(tokens)  # the file
        elif words or not ASSIGNED.fullmatch(token):
            words.append(token)
    yield from [words] if words else []
