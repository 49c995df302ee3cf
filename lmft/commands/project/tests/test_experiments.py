"""Every experiment composes: its knobs exist, and their values are in range."""

from pathlib import Path

import lmft
import pytest

CONF = Path(__file__).parents[1] / "conf"
EXPERIMENTS = sorted(path.stem for path in CONF.glob("experiment/*.yaml"))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_experiment_composes(name: str) -> None:
    lmft.compose(f"--config-dir={CONF}", experiment=name)
