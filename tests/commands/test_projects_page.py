"""The commands of docs/projects.md run, in order, and print what the page shows."""

import doctest
import re
import shlex
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "projects.md"
BLOCKS = re.compile(r"^```sh\n(.*?)^```\n+```text\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NUMBER = re.compile(r"\d[\d,.]*")
CHECK = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
QUICK = "trainer.max_steps=1 cache_root=cache tracker=none"  # of commands that train


def test_the_commands_run_and_print_what_the_page_shows(command, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    folder = tmp_path
    blocks = BLOCKS.findall(PAGE.read_text())
    assert len(blocks) == 4
    for lines, shown in blocks:
        printed = ""
        for line in lines.splitlines():
            words = shlex.split(line)
            if words[0] == "cd":
                folder /= words[1]
            elif words[0] == "cat":
                printed += (folder / words[1]).read_text()
            else:
                trains = line.startswith("lmft --config-dir")
                code, more, complaint = command(f"{line[5:]} {QUICK if trains else ''}", folder)
                printed += more
                assert code == 0 or "doctor" in line, complaint
                assert not (trains and complaint)  # such as of too few documents
        shown, printed = (NUMBER.sub("N", text).replace("...", "…") for text in (shown, printed))
        shown = shown.replace("…", "...")
        assert doctest.OutputChecker().check_output(shown, printed, CHECK), printed
