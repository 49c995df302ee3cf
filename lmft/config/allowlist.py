"""What a config may say, looked at before anything that it names is imported or resolved.

A config file or an override may come from a stranger: it must not run code, read a file or learn a
secret. Objects go by exact names, each in its own place; interpolations by a few functions.
"""

import re
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import GrammarParseError
from omegaconf.grammar.gen.OmegaConfGrammarParser import OmegaConfGrammarParser
from omegaconf.grammar_parser import parse

from lmft.config.hydra_settings import check_hydra
from lmft.config.knobs import walk
from lmft.errors import UserError

OPTIMIZERS = frozenset(
    f"torch.optim.{name}"
    for name in (
        "ASGD Adadelta Adafactor Adagrad Adam AdamW Adamax LBFGS Muon NAdam RAdam RMSprop Rprop "
        "SGD SparseAdam"
    ).split()
)

SEARCHES = frozenset(
    [
        f"optuna.samplers.{name}Sampler"
        for name in "BruteForce CmaEs GP Grid NSGAII NSGAIII PartialFixed QMC Random TPE".split()
    ]
    + [
        f"optuna.pruners.{name}Pruner"
        for name in "Hyperband Median Nop Patient Percentile SuccessiveHalving Threshold "
        "Wilcoxon".split()
    ]
)

TARGETS = {  # all that may be named in `_target_`, by the place where it may stand
    "objective": frozenset({"lmft.objective.CausalLM", "lmft.objective.MaskedLM"}),
    "optimizer": OPTIMIZERS,
    "tracker": frozenset({"lmft.tracker.MlflowTracker", "lmft.tracker.NoTracker"}),
    "dataset.source": frozenset(
        f"lmft.dataset.sources.{name}" for name in ("HubDataset", "PythonDocs", "TextFiles")
    ),
    "hydra.callbacks.sweep": frozenset({"lmft.sweep.OpenSweep"}),
    "hydra.launcher": frozenset(
        {
            "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
            "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher",
            "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher",
            "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher",
            "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher",
        }
    ),
    "hydra.sweeper": frozenset(
        {
            "hydra._internal.core_plugins.basic_sweeper.BasicSweeper",
            "hydra_plugins.lmft_optuna.OptunaSweeper",
        }
    ),
    "hydra.sweeper.sampler": SEARCHES,
    "hydra.sweeper.sampler.independent_sampler": SEARCHES,
    "hydra.sweeper.sampler.base_sampler": SEARCHES,
    "hydra.sweeper.pruner": SEARCHES,
    "hydra.sweeper.pruner.wrapped_pruner": SEARCHES,
}

RESOLVERS = frozenset({"either", "now", "oc.select"})

# Variables that say where things lie or who is at work: what a shared config has a use for.
VARIABLE = re.compile(r"HOME|USER|LOGNAME|PWD|TMPDIR|SCRATCH|WORK|\w+_(DIR|HOME|ROOT|PATH)")

SECRET = re.compile(r"TOKEN|PASS|SECRET|KEY|CREDENTIAL|AUTH", re.IGNORECASE)


def check_config(config: DictConfig | dict[str, Any]) -> None:
    """Refuse what no config may say; nothing of it is resolved or imported.

    Raises:
        UserError: with the knob, and the way out.
    """
    tree: Any = config
    if isinstance(config, DictConfig):
        tree = OmegaConf.to_container(config, resolve=False)
    for path, value in walk(tree):
        name = path.rpartition(".")[2]
        if name == "_target_":
            check_target(path, value)
        elif name == "_args_":
            raise UserError(f"{path} may not be set; give values by name.")
        elif path.startswith("hydra.overrides."):
            if isinstance(value, str) and "${" in value:
                check_interpolations(value.partition("=")[0].lstrip("+~"), value)
        elif path != "hydra.job.override_dirname":  # the overrides again, for folder names
            if isinstance(value, str) and "${" in value:
                check_interpolations(path, value)
    check_hydra(tree.get("hydra") or {})


def check_search(search: dict[str, Any]) -> None:
    """The same of a study's sampler and pruner, by these names.

    Raises:
        UserError: with the knob, and the way out.
    """
    for path, value in walk(search, "hydra.sweeper"):
        if path.endswith("._target_"):
            check_target(path, value)
        elif isinstance(value, str) and "${" in value:
            check_interpolations(path, value)


def check_target(path: str, target: Any) -> None:
    """Refuse a `_target_` that does not stand, to the letter, among those of its place.

    Raises:
        UserError: it does not.
    """
    place = path.removesuffix("_target_").rstrip(".")
    allowed = TARGETS.get(place)
    if allowed is None:
        raise UserError(
            f"{path} is {target!r}, but nothing may be named there; _target_ stands only in "
            f"{', '.join(place for place in TARGETS if not place.startswith('hydra.'))}."
        )
    if not isinstance(target, str) or target not in allowed:
        raise UserError(f"{path} is {target!r}; choose {', '.join(sorted(allowed))}.")


def check_interpolations(path: str, text: str) -> None:
    """Refuse functions that could make a `_target_`, or tell what a config has no need to know.

    Raises:
        UserError: there is one.
    """
    try:
        found = list(functions(parse(text)))
    except GrammarParseError:
        raise UserError(f"{path} is {text!r}, which is no ${{...}} that can be read.") from None
    for name, first in found:
        if name == "oc.env":
            check_variable(path, first)
        elif name not in RESOLVERS and not (name == "hydra" and path.startswith("hydra.")):
            raise UserError(
                f"{path} uses ${{{name}:...}}; a config may use only "
                f"{', '.join(f'${{{known}:...}}' for known in sorted(RESOLVERS))} and "
                "${oc.env:...}: write the value itself."
            )


def functions(node: Any) -> Iterator[tuple[str, str]]:
    """The name and the first argument of each function in a parsed value, as they are written."""
    if isinstance(node, OmegaConfGrammarParser.InterpolationResolverContext):
        arguments = node.sequence()  # type: ignore[no-untyped-call]
        first = arguments.element(0) if arguments is not None else None
        name = node.resolverName().getText()  # type: ignore[no-untyped-call]
        yield name, "" if first is None else first.getText()
    for child in getattr(node, "children", None) or ():
        yield from functions(child)


def check_variable(path: str, name: str) -> None:
    """Refuse to read a variable that says anything but where things lie.

    Raises:
        UserError: it does.
    """
    name = name.strip()
    if path == "tracker.uri" and name == "MLFLOW_TRACKING_URI":
        return
    if not VARIABLE.fullmatch(name) or SECRET.search(name):
        raise UserError(
            f"{path} reads the variable {name}; a config may read only HOME, USER, SCRATCH, WORK, "
            "TMPDIR and those that end in _DIR, _HOME, _ROOT or _PATH, and tracker.uri "
            f"MLFLOW_TRACKING_URI: let the shell fill it in, {path}=$VARIABLE."
        )
