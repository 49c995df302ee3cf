"""The `lmft` command: which story to tell. Nothing heavy is imported until one is chosen."""

import logging
import math
import os
import sys
import traceback
import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from lmft.errors import Busy, Differs, Refused, Stopped, UserError, did_you_mean
from lmft.signals import listen

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from lmft.sweep.job import OpenJob

PLACES = (Path(__file__).parent / "conf", Path(__file__).parent.parent / "conf")
CONF = next(place for place in PLACES if place.is_dir())  # of an installed wheel, or a checkout
DONE, FAILED, MISTAKE, BUSY = 0, 1, 2, 3
VERBS = {  # each with the module that tells its story
    "evaluate": "evaluate",
    "compare": "compare",
    "verify": "verify",
    "generate": "generate",
    "runs": "list_runs",
    "clean": "clean",
}


class Console(logging.StreamHandler[TextIO]):
    """What a person reads on stderr."""


def main() -> int:
    """Run the command line; returns the exit code."""
    words = sys.argv[1:]
    if {"--help", "-h"} & set(words):
        from lmft.help import help_text

        print(help_text(CONF))
        return DONE
    prepare()
    try:
        if words and words[0].isidentifier():
            tell(words[0], words[1:])
            return DONE
        return train()
    except Stopped as stopped:
        print("lmft: stopped; the same command goes on.", file=sys.stderr)
        return 128 + stopped.signal_number
    except Exception as error:
        return report(error)


def tell(verb: str, words: list[str]) -> None:
    """Run the story of a verb."""
    if verb not in VERBS:
        raise UserError(
            f"There is no verb {verb!r}; lmft KNOB=VALUE ... trains, see lmft --help."
            + did_you_mean(verb, VERBS)
        )
    from importlib import import_module

    import_module(f"lmft.{VERBS[verb]}").tell(words, CONF)


def train() -> int:
    """Let Hydra compose a config, or several, and train on each; returns the exit code."""
    import hydra

    from lmft import sweep
    from lmft.compose import register_resolvers

    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us as they are
    # Our ray.yaml stands beside the plug-in's own config of that name; nothing is wrong with it.
    warnings.filterwarnings("ignore", "(?s).*validated against ConfigStore schema")
    register_resolvers()
    # Wherever a person wrote the flag: argparse wants it before or after all overrides.
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda word: word not in ("-m", "--multirun"))
    failures: list[Exception | None] = []  # of each job that was started in this process

    def job(composed: "DictConfig") -> float | None:
        try:
            failures.append(None)
            return run_job(composed)
        except Exception as error:  # kept from Hydra, which would add lines of its own
            failures[-1] = error
            return None

    whole = False
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(job)()
        whole = True
    except Refused as refused:
        if isinstance(refused.error, Busy):
            sweep.leave()
        raise refused.error from None
    except Exception as error:
        if failures:
            raise
        from lmft.mistakes import as_mistake

        raise as_mistake(error, CONF, composing=True) or error from error
    finally:
        succeeded = sweep.close(whole)
    if failures and failures[-1] is not None:
        raise failures[-1]
    return DONE if succeeded else FAILED


def run_job(composed: "DictConfig") -> float:
    """One run of a composed config; returns its lowest validation loss, in nats per token.

    A failing job of a sweep has told why; its loss is infinite, and the other jobs go on.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    settings = HydraConfig.get()
    files = {
        "config.yaml": OmegaConf.to_yaml(composed),
        "overrides.yaml": OmegaConf.to_yaml(settings.overrides.task),
        "hydra.yaml": OmegaConf.to_yaml(OmegaConf.structured(settings)),
    }
    with suppress(OSError):  # Hydra's folder for the job, in which it was told to put nothing
        os.rmdir(settings.runtime.output_dir)
    if settings.mode is not RunMode.MULTIRUN:
        return go(composed, files)
    from lmft.compose import register_resolvers
    from lmft.sweep.job import open_job

    prepare()  # a launcher may have started this process, and elsewhere
    os.chdir(settings.runtime.cwd)
    register_resolvers()
    share_cores(settings.launcher.get("n_jobs", 1))

    launch, words = Path(settings.sweep.dir), list(settings.overrides.task)
    with open_job(launch.expanduser().absolute(), settings.job.num, words) as job:
        print(f"\nJob {job.note.number}: {job.note.name}", flush=True)
        try:
            return go(composed, files, job)
        except Exception as error:
            job.fail(describe(error))
            report(error)
    return math.inf


def share_cores(processes: int) -> None:
    """Jobs side by side on one machine get equal shares; torch reads this when it is imported."""
    cores = os.cpu_count() or 1
    threads = max(1, cores // (cores if processes < 0 else processes))
    if threads < cores:
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))


def go(composed: "DictConfig", files: dict[str, str], job: "OpenJob | None" = None) -> float:
    """Train, or answer at once where that was done before; returns the validation loss."""
    from lmft.answer import answer
    from lmft.config import as_values, build, check_types
    from lmft.runs import find_finished
    from lmft.terminal import Terminal

    typed = check_types(composed)
    terminal = Terminal(brief=job is not None)
    folder = None if typed.fresh else find_finished(typed)
    if folder is not None:
        answer(folder, build(typed.tracker), terminal, job.place if job else None)
    else:
        from lmft.train import run

        more = (job.place, job.prune) if job else ()
        folder = run(build(typed), as_values(typed), files, terminal, *more)
    if job is not None:
        return job.end(folder)
    return float(folder.read_json("result.json")["validation"]["loss"])


def report(error: Exception) -> int:
    """Say in one sentence what went wrong; returns the exit code."""
    from lmft.mistakes import as_mistake

    if "debug=true" in sys.argv:
        traceback.print_exception(error)
    mistake = as_mistake(error, CONF)
    print(f"lmft: {describe(error)}", file=sys.stderr)
    if mistake is not None:
        return MISTAKE
    if isinstance(error, Busy):
        return BUSY
    if not isinstance(error, Differs) and "debug=true" not in sys.argv:
        print("lmft: debug=true shows where.", file=sys.stderr)
    return FAILED


def describe(error: Exception) -> str:
    """What went wrong, in one sentence."""
    from lmft.mistakes import as_mistake

    mistake = as_mistake(error, CONF)
    if mistake is not None or isinstance(error, Busy):
        return str(mistake or error)
    if isinstance(error, FloatingPointError | Differs):
        return str(error)
    return f"{type(error).__name__}: {str(error).strip() or 'no reason given'}"


def prepare() -> None:
    """Heed signals; only our own voice, and warnings; no library counts its users."""
    listen()
    os.environ |= {
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "true",
    }
    # Threads that wait must not spin: beside another busy process that made steps ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if any(isinstance(known, Console) for known in logging.getLogger().handlers):
        return
    console = Console(sys.stderr)
    console.setLevel(logging.WARNING)
    console.setFormatter(logging.Formatter("lmft: %(message)s"))
    logging.getLogger().addHandler(console)
