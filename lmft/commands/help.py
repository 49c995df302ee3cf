"""`lmft --help`: read from the config files, so that it can't be out of date."""

from pathlib import Path

INTRODUCTION = """\
lmft fine-tunes language models from composed configurations.

  lmft [GROUP=CHOICE ...] [KNOB=VALUE ...]      train
  lmft -m KNOB=VALUE,VALUE ...                  train once for each combination
  lmft evaluate run=RUN | model=... [KNOB=VALUE ...]
                                                score a run's best weights, or any model
  lmft generate run=RUN | model=... prompt=TEXT [tokens=50] [temperature=0.8] [top_p=0.95] [seed=0]
                                                continue a text, or fill its mask tokens
  lmft runs [run_root=PATH]                     the runs there are: state, size, perplexity
  lmft clean [RUN ...] [cache=true] [yes=true]  remove runs (else the unfinished) after asking
  lmft sync [RUN ...] [tracker.uri=STORE]       send MLflow the points that wait in runs' folders
  lmft compare RUN RUN ...                      which is better, and is it more than chance?
  lmft verify resume|batch [KNOB=VALUE ...]     does this run end the same if it is killed, or cut
                                                into other micro-batches? a proof, not a promise
  lmft plan [KNOB=VALUE ...]                    what a run would take: memory, disk and time, and
                                                the knob to turn where it would not fit
  lmft profile [steps=5] [KNOB=VALUE ...]       where a training step's time goes, and how near it
                                                comes to what the device can do; nothing is kept

Groups, the default first; a file of conf/ stands behind each choice:
"""

EXAMPLES = """\
Examples:
  lmft                                          the default experiment: minutes, nothing to download
  lmft objective=mlm model=bert_tiny            masked instead of causal
  lmft model=distilgpt2 dataset=text_files dataset.train=train.txt dataset.validation=valid.txt
  lmft experiment=distilgpt2_wikitext2 hardware=cuda seed=1
  lmft -m optimizer.lr=1e-5,3e-5 seed=0,1       four runs, side by side in MLflow
  lmft -m hydra/sweeper=lr_search               Optuna, with pruning
  lmft hardware=ddp hardware.processes=2        two processes share the run; see docs/scaling.md
  lmft -m hydra/launcher=joblib seed=0,1,2,3    several jobs at a time (pip install lmft[joblib])

The same command again goes on where it was cut off, and answers at once when it is done;
fresh=true starts anew.

Flags:
  -m, --multirun           a run for each combination of the values that commas part
  -c job                   show the composed config instead of running
  --config-dir DIR         add a folder of your own groups and experiments
  --shell-completion install=bash    print what makes the tab key complete groups and knobs
  --hydra-help             the other flags, which are Hydra's

Exit codes: 0 done, 1 a run failed, 2 a mistake in the command, 3 at work
in another process already, 130 and 143 stopped by a signal.
Every knob, its unit and its default: conf/, or `lmft -c job`."""


def help_text(conf: Path) -> str:
    """The whole help, with the groups and choices that `conf` holds."""
    lines = [INTRODUCTION]
    config = (conf / "config.yaml").read_text()
    for group in sorted({path.parent for path in conf.rglob("*.yaml")} - {conf}):
        lines.append(f"{group.relative_to(conf)}=")
        choices = sorted(group.glob("*.yaml"), key=lambda c: (not is_default(c, config), c.stem))
        lines += [f"  {choice.stem:<24} {first_comment(choice)}" for choice in choices]
    return "\n".join([*lines, "", EXAMPLES])


def is_default(choice: Path, config: str) -> bool:
    """Whether the defaults list of `config` has this choice."""
    return f"- {choice.parent.name}: {choice.stem}\n" in config


def first_comment(choice: Path) -> str:
    """What a config file says of itself."""
    comments = (line[2:] for line in choice.read_text().splitlines() if line.startswith("# "))
    return next((comment for comment in comments if not comment.startswith("@")), "")
