"""What `make` installs is pinned: each package, to the version that is tested here."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
LINES = (ROOT / "constraints.txt").read_text().splitlines()
PINS = [Requirement(line) for line in LINES if line]
PINNED = {canonicalize_name(pin.name): pin for pin in PINS}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def asked_for():
    """What lmft itself asks for: to run, to be built, and by the extras that are whole here."""
    project = PROJECT["project"]
    yield from map(Requirement, project["dependencies"] + PROJECT["build-system"]["requires"])
    for words in project["optional-dependencies"].values():
        extra = [found for found in map(Requirement, words) if found.name != project["name"]]
        if all(installed(found) for found in extra):
            yield from extra


def installed(requirement):
    try:
        return distribution(requirement.name)
    except PackageNotFoundError:
        return None


def applies(requirement, extras):
    marker = requirement.marker
    return not marker or any(marker.evaluate({"extra": extra}) for extra in extras or [""])


def reached():
    """All that is installed for lmft, by name, and whether another asks for just that version."""
    waiting, found, seen = list(asked_for()), {}, set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        exact = any(part.operator == "==" for part in requirement.specifier)
        found[name] = found.get(name, False) or exact
        distributed = installed(requirement)
        step = (name, frozenset(requirement.extras))
        if distributed is None or step in seen:
            continue
        seen.add(step)
        asked = map(Requirement, distributed.requires or [])
        waiting += [more for more in asked if applies(more, requirement.extras)]
    return {name: exact for name, exact in found.items() if installed(Requirement(name))}


def test_every_pin_is_one_exact_version():
    for pin in PINS:
        assert re.fullmatch(r"==[0-9][0-9a-zA-Z.]*", str(pin.specifier)), pin
        assert not (pin.url or pin.extras or pin.marker), pin
    assert len(PINNED) == len(PINS)


def test_every_package_that_lmft_brings_is_pinned():
    # torch's builds for GPUs name the exact versions of their libraries themselves.
    loose = sorted(name for name, exact in reached().items() if not exact and name not in PINNED)
    assert len(reached()) > 80 and loose == []


def test_what_is_installed_is_what_is_pinned():
    for name in reached().keys() & PINNED.keys():
        version = Version(distribution(name).version)
        assert PINNED[name].specifier.contains(version.public, prereleases=True), name


def test_every_installation_of_make_is_held_to_the_pins():
    lines = [line for line in (ROOT / "Makefile").read_text().splitlines() if "pip install" in line]
    assert lines and all(" -c constraints.txt " in line for line in lines)
