"""What a config may say, checked before anything that it names is imported or resolved.

A config file or an override may come from a stranger: it must not run code, read files or reveal
secrets. A `_target_` is allowed only by its exact name and only at its own node: lmft's classes,
torch's optimizers, and what installed packages declare (`lmft.config.plugins`). Interpolations are
limited to a few functions.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import GrammarParseError
from omegaconf.grammar.gen.OmegaConfGrammarParser import OmegaConfGrammarParser
from omegaconf.grammar_parser import parse

from lmft.config.hydra_settings import check_hydra
from lmft.config.knobs import walk
from lmft.config.plugins import plugin_targets
from lmft.errors import UserError

LMFT = Path(__file__).parents[1]


@cache
def own_classes(module: str, method: str) -> frozenset[str]:
    """Return the class paths of an lmft module that a config may name: those with this method.

    The source is parsed, not imported: that would load torch. A class counts as well if it inherits
    the method from one of the same module; protocols do not.
    """
    path = LMFT.joinpath(*module.split(".")[1:]).with_suffix(".py")
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef):
            bases = {base.id for base in node.bases if isinstance(base, ast.Name)}
            methods = {part.name for part in node.body if isinstance(part, ast.FunctionDef)}
            if "Protocol" not in bases and (method in methods or bases & names):
                names.add(node.name)
    return frozenset(f"{module}.{name}" for name in names)


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
TARGETS = {  # what lmft itself allows as `_target_`, by config node
    "objective": own_classes("lmft.objective", "batch"),
    "optimizer": OPTIMIZERS,
    "tracker": frozenset({"lmft.tracker.MlflowTracker", "lmft.tracker.NoTracker"}),
    "dataset.source": own_classes("lmft.dataset.sources", "parts"),
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
# Environment variables that name paths or the user: what a shared config has a use for.
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
    """Check an Optuna study's sampler and pruner, given by these names, in the same way.

    Raises:
        UserError: with the knob, and the way out.
    """
    for path, value in walk(search, "hydra.sweeper"):
        if path.endswith("._target_"):
            check_target(path, value)
        elif isinstance(value, str) and "${" in value:
            check_interpolations(path, value)


def check_target(path: str, target: Any) -> None:
    """Refuse a `_target_` that is not, to the letter, among those of its node.

    Raises:
        UserError: it is not.
    """
    node = path.removesuffix("_target_").rstrip(".")
    if node not in TARGETS:
        raise UserError(
            f"{path} is {target!r}, but no class may be named there; _target_ belongs only in "
            f"{', '.join(node for node in TARGETS if not node.startswith('hydra.'))}."
        )
    allowed = TARGETS[node]
    if isinstance(target, str) and target in allowed:
        return
    declared = frozenset() if node.startswith("hydra.") else plugin_targets(node)
    if not isinstance(target, str) or target not in declared:
        raise UserError(f"{path} is {target!r}; choose {', '.join(sorted(allowed | declared))}.")


def check_interpolations(path: str, text: str) -> None:
    """Refuse resolvers that could make a `_target_`, or reveal what a config need not know.

    Raises:
        UserError: there is one.
    """
    try:
        calls = list(resolver_calls(parse(text)))
    except GrammarParseError:
        raise UserError(f"{path} is {text!r}, which is not a valid ${{...}}.") from None
    for name, first in calls:
        if name == "oc.env":
            check_variable(path, first)
        elif name not in RESOLVERS and not (name == "hydra" and path.startswith("hydra.")):
            raise UserError(
                f"{path} uses ${{{name}:...}}; a config may use only "
                f"{', '.join(f'${{{known}:...}}' for known in sorted(RESOLVERS))} and "
                "${oc.env:...}: write the value itself."
            )


def resolver_calls(node: Any) -> Iterator[tuple[str, str]]:
    """Yield name and first argument, as written, of each resolver in a parsed value."""
    if isinstance(node, OmegaConfGrammarParser.InterpolationResolverContext):
        arguments = node.sequence()  # type: ignore[no-untyped-call]
        first = arguments.element(0) if arguments is not None else None
        name = node.resolverName().getText()  # type: ignore[no-untyped-call]
        yield name, "" if first is None else first.getText()
    for child in getattr(node, "children", None) or ():
        yield from resolver_calls(child)


def check_variable(path: str, name: str) -> None:
    """Refuse to read an environment variable that names anything but a path or the user.

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
