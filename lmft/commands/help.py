"""What `lmft --help` says of groups, choices and exit codes, beside flags and verbs."""

import shutil
import textwrap
from collections.abc import Iterable
from pathlib import Path

from lmft.commands.argument_parser import INDENT
from lmft.config import CONF
from lmft.config.comments import top_comment
from lmft.config.groups import known_groups

EXAMPLES = """\
examples:
  lmft                                      the default run; downloads nothing
  lmft objective=mlm model=bert_tiny        masked instead of causal
  lmft model=distilgpt2 dataset=text_files dataset.train=train.txt
  lmft experiment=distilgpt2_wikitext2 hardware=cuda seed=1
  lmft -m optimizer.lr=1e-5,3e-5 seed=0,1   four runs, side by side in MLflow
  lmft -m hydra/sweeper=lr_search           Optuna, with pruning
  lmft hardware=ddp hardware.processes=2    two processes; see docs/scaling.md
  lmft -m hydra/launcher=joblib seed=0,1,2  several jobs at a time
                                            (pip install 'lmft[joblib]')
  eval "$(lmft --shell-completion bash)"    the tab key completes; in ~/.bashrc

The same command again resumes an interrupted run and answers at once when it
is finished; fresh=true starts over. Flags may be anywhere in the line.

exit codes:
  0 done, 1 a run failed, 2 a mistake in the command, 3 another process is at
  this run, 130 and 143 stopped by a signal

Every knob, its unit and its default: conf/, or `lmft -c job`."""


def epilog(own_groups: Iterable[Path] = ()) -> str:
    """Return what comes below verbs and flags: groups with their choices, and examples.

    Args:
        own_groups: folders of groups that --config-dir adds.
    """
    return f"{groups_text(own_groups)}\n\n{EXAMPLES}"


def groups_text(own_groups: Iterable[Path] = ()) -> str:
    """Return the groups with their choices, the default first, each with what it is."""
    lines = ["groups, the default first; each choice is a file of conf/:"]
    defaults = (CONF / "config.yaml").read_text()
    for group, paths in sorted(known_groups(own_groups).items()):
        lines.append(f"  {group}=")
        paths.sort(key=lambda path: (f"- {group}: {path.stem}\n" not in defaults, path.stem))
        lines += [as_entry(path.stem, top_comment(path).partition("\n")[0]) for path in paths]
    return "\n".join(lines)


def as_entry(name: str, text: str) -> str:
    """Return a name and its explanation, folded to the terminal's width."""
    width = max(60, min(100, shutil.get_terminal_size().columns)) - 2
    start = f"    {name:<{INDENT - 5}} "
    entry = textwrap.fill(text, width, initial_indent=start, subsequent_indent=" " * INDENT)
    return entry or start.rstrip()  # a file without a comment
