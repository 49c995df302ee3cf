"""What `make` installs is pinned: each package, to one exact version."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
LINES = (ROOT / "constraints.txt").read_text().splitlines()
PINS = [Requirement(line) for line in LINES if line]
PINNED = {canonicalize_name(pin.name): pin for pin in PINS}
APART = {"ray"}  # extras that need an environment of their own
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def required_by_pyproject():
    """What pyproject.toml names: to run, to be built, and by the extras that `make` installs."""
    project = PROJECT["project"]
    yield from map(Requirement, project["dependencies"] + PROJECT["build-system"]["requires"])
    for name, words in project["optional-dependencies"].items():
        if name not in APART:
            yield from (found for found in map(Requirement, words) if found.name != project["name"])


def installed(requirement):
    try:
        return distribution(requirement.name)
    except PackageNotFoundError:
        return None


def applies(requirement, extras):
    marker = requirement.marker
    return not marker or any(marker.evaluate({"extra": extra}) for extra in extras or [""])


def installed_for_lmft():
    """All that is installed for lmft, by name, and whether another asks for just that version."""
    waiting, exact, seen = list(required_by_pyproject()), {}, set()
    while waiting:
        requirement = waiting.pop()
        found = installed(requirement)
        if found is None:
            continue
        name = canonicalize_name(requirement.name)
        is_exact = any(part.operator == "==" for part in requirement.specifier)
        exact[name] = exact.get(name, False) or is_exact
        step = (name, frozenset(requirement.extras))
        if step not in seen:
            seen.add(step)
            needed = map(Requirement, found.requires or [])
            waiting += [other for other in needed if applies(other, requirement.extras)]
    return exact


def test_every_pin_is_one_exact_version():
    for pin in PINS:
        assert re.fullmatch(r"==[0-9][0-9a-zA-Z.]*", str(pin.specifier)), pin
        assert not (pin.url or pin.extras or pin.marker), pin
    assert len(PINNED) == len(PINS)


def test_every_dependency_of_pyproject_has_a_pin_that_satisfies_it():
    for requirement in required_by_pyproject():
        (pin,) = PINNED[canonicalize_name(requirement.name)].specifier
        assert requirement.specifier.contains(pin.version, prereleases=True), requirement


def test_every_package_that_lmft_brings_is_pinned():
    exact = installed_for_lmft()
    differing = [
        f"{name} {version}"
        for name in sorted(exact.keys() & PINNED.keys())
        if not PINNED[name].specifier.contains(
            Version(version := distribution(name).version).public, prereleases=True
        )
    ]
    if differing:  # their dependencies are not those of the pinned versions
        pytest.skip(f"installed without constraints.txt: {', '.join(differing)}")
    # torch's builds for GPUs name the exact versions of their libraries themselves.
    loose = sorted(name for name, is_exact in exact.items() if not is_exact and name not in PINNED)
    assert len(exact) > 80 and loose == []


def test_every_pin_installs_on_the_oldest_python():
    oldest = PROJECT["project"]["requires-python"].removeprefix(">=") + ".0"
    refusing = [
        f"{pin} needs Python {needed}"
        for pin in PINS
        if (found := installed(pin))
        and pin.specifier.contains(Version(found.version).public)
        and (needed := found.metadata.get("Requires-Python"))
        and not SpecifierSet(needed).contains(oldest)
    ]
    assert refusing == []


def test_every_installation_of_make_is_held_to_the_pins():
    lines = [line for line in (ROOT / "Makefile").read_text().splitlines() if "pip install" in line]
    assert lines and all(" -c constraints.txt " in line for line in lines)
