"""Versions of packages, extras of lmft that are not installed, and the environment."""

import os
import platform
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires, version

from packaging.requirements import Requirement

from lmft.analysis.doctor.findings import Fact, Finding, Found, Kind
from lmft.output.sanitize import redact
from lmft.runs.provenance import PACKAGES

NEEDED_BY = {  # extras of lmft that add something to use: what needs them
    "optuna": "hydra/sweeper=optuna",
    "joblib": "hydra/launcher=joblib",
    "submitit": "hydra/launcher=slurm",
    "ray": "hydra/launcher=ray",
    "gguf": "lmft export",
    "lora": "adapter=lora",
}
VARIABLES = (
    "LMFT_",
    "HF_",
    "MLFLOW_",
    "OMP_",
    "GOMP_",
    "CUDA_VISIBLE_",
    "TRANSFORMERS_",
    "PYTORCH_",
)
SET_BY_LMFT = {"HF_HUB_DISABLE_TELEMETRY", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}  # as it starts


def describe_software(words: Iterable[str]) -> Found:
    """Yield the versions of packages and extras.

    Args:
        words: of the command; an extra that one of them needs is missing.
    """
    system = f"{platform.system()} {platform.release()}"
    yield Fact("lmft", f"{version('lmft')}, Python {platform.python_version()}, {system}")
    found = [f"{name} {version(name)}" for name in PACKAGES if name != "lmft"]
    yield Fact("packages", ", ".join(found))
    chosen, installed = set(words), []
    for extra in metadata("lmft").get_all("Provides-Extra") or []:
        if extra not in NEEDED_BY:
            continue
        missing = [name for name in packages_of(extra) if not is_installed(name)]
        if not missing:
            installed.append(extra)
            continue
        kind = Kind.missing if NEEDED_BY[extra] in chosen else Kind.note
        verb = "is" if len(missing) == 1 else "are"
        yield Finding(
            kind,
            f"{' and '.join(missing)} {verb} not installed, which {NEEDED_BY[extra]} needs: "
            f"pip install 'lmft[{extra}]'{', in an environment of its own' * (extra == 'ray')}",
        )
    yield Fact("extras", ", ".join(installed) or "none")


def packages_of(extra: str) -> Iterator[str]:
    """Yield the packages that an extra of lmft installs."""
    for line in requires("lmft") or []:
        requirement = Requirement(line)
        marker = requirement.marker
        if marker and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""}):
            yield requirement.name


def is_installed(package: str) -> bool:
    """Return whether a package is installed."""
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


def describe_environment() -> Found:
    """Yield the variables that change what lmft and its libraries do, without their secrets."""
    names = [name for name in sorted(os.environ) if name.startswith(VARIABLES)]
    shown = [redact(f"{name}={os.environ[name]}") for name in names if name not in SET_BY_LMFT]
    yield Fact("environment", "  ".join(shown) or "nothing set")
