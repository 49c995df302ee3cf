"""`lmft --help`; groups and choices are read from the config files, so that they are up to date."""

import argparse
import shutil
import textwrap
from pathlib import Path

from lmft.commands.arguments import VERBS
from lmft.config import CONF
from lmft.config.plugins import conf_folders

INDENT = 28  # columns before the explanation of a choice
USAGE = """\
lmft [GROUP=CHOICE ...] [KNOB=VALUE ...]    train
       lmft -m KNOB=VALUE,VALUE ...                train for each combination
       lmft VERB ...                               see lmft VERB --help"""
EXAMPLES = """\
examples:
  lmft                                       the default run, nothing to download
  lmft objective=mlm model=bert_tiny         masked instead of causal
  lmft model=distilgpt2 dataset=text_files dataset.train=train.txt
  lmft experiment=distilgpt2_wikitext2 hardware=cuda seed=1
  lmft -m optimizer.lr=1e-5,3e-5 seed=0,1    four runs, side by side in MLflow
  lmft -m hydra/sweeper=lr_search            Optuna, with pruning
  lmft hardware=ddp hardware.processes=2     two processes; see docs/scaling.md
  lmft -m hydra/launcher=joblib seed=0,1,2   several jobs at a time
                                             (pip install lmft[joblib])

The same command again resumes an interrupted run and answers at once when it
is finished; fresh=true starts over.

exit codes:
  0 done, 1 a run failed, 2 a mistake in the command, 3 another process is at
  this run, 130 and 143 stopped by a signal

Every knob, its unit and its default: conf/, or `lmft -c job`."""


def help_text() -> str:
    """Return the whole help, with the verbs, flags, groups and choices there are."""
    parser = argparse.ArgumentParser(
        prog="lmft",
        usage=USAGE,
        description="lmft fine-tunes language models from composed configurations.",
        epilog=f"{groups_text()}\n\n{EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(title="verbs", metavar="VERB")
    for name, verb in VERBS.items():
        verbs.add_parser(name, help=verb.summary)
    # Shown here, parsed by `cli.main` or Hydra.
    parser.add_argument("--version", action="store_true", help="show the version of lmft")
    parser.add_argument(
        "-m",
        "--multirun",
        action="store_true",
        help="a run for each combination of values separated by commas",
    )
    parser.add_argument(
        "-c", "--cfg", metavar="job", help="show the composed config instead of running"
    )
    parser.add_argument(
        "--config-dir", metavar="DIR", help="add a folder of your own groups and experiments"
    )
    parser.add_argument(
        "--shell-completion",
        metavar="install=bash",
        help="print what makes the tab key complete groups and knobs",
    )
    parser.add_argument("--hydra-help", action="store_true", help="show Hydra's other flags")
    return parser.format_help().rstrip()


def groups_text() -> str:
    """Return the groups with their choices, the default first, each with its first comment."""
    lines = ["groups, the default first; each choice is a file of conf/:"]
    choices: dict[str, list[Path]] = {}
    for conf in conf_folders():
        for path in conf.rglob("[!_]*.yaml"):
            if path.parent != conf:
                choices.setdefault(str(path.parent.relative_to(conf)), []).append(path)
    defaults = (CONF / "config.yaml").read_text()
    for group, paths in sorted(choices.items()):
        lines.append(f"  {group}=")
        paths.sort(key=lambda path: (f"- {group}: {path.stem}\n" not in defaults, path.stem))
        lines += [as_entry(path.stem, first_comment(path)) for path in paths]
    return "\n".join(lines)


def as_entry(name: str, text: str) -> str:
    """Return a name and its explanation, folded to the terminal's width."""
    width = max(60, min(100, shutil.get_terminal_size().columns)) - 2
    start = f"    {name:<{INDENT - 5}} "
    return textwrap.fill(text, width, initial_indent=start, subsequent_indent=" " * INDENT)


def first_comment(path: Path) -> str:
    """Return the first comment of a config file."""
    comments = (line[2:] for line in path.read_text().splitlines() if line.startswith("# "))
    return next((comment for comment in comments if not comment.startswith("@")), "")
