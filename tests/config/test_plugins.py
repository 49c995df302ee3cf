"""Packages that extend lmft by an entry point."""

import importlib
import json
import shutil
import sys
from pathlib import Path

import pytest

from lmft.config import allowlist
from lmft.config.allowlist import check_target, own_classes
from lmft.config.groups import choices_of
from lmft.errors import UserError

EXAMPLE = Path(__file__).parents[2] / "examples" / "lmft_extras"
EXTRAS = "objective=span_mlm dataset=package optimizer=lion model=bert_tiny"
SMALL = "dataset.block_size=32 trainer.max_steps=2 tracker=none hardware=cpu cache_root=cache"


def declare(folder: Path, package: str) -> None:
    """Write what pip would: a dist-info folder with the entry point."""
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[lmft]\n{package} = {package}\n")


@pytest.fixture
def path(monkeypatch):
    """Prepend folders to the import path; what is imported from there is forgotten afterwards."""

    def prepend(folder):
        monkeypatch.syspath_prepend(str(folder))
        importlib.invalidate_caches()

    before = set(sys.modules)
    yield prepend
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("lmft_extras", "loud", "broken"):
            del sys.modules[name]


@pytest.fixture
def extras(tmp_path, path):
    """The example package, as if it were installed."""
    path(EXAMPLE)
    declare(tmp_path / "site", "lmft_extras")
    path(tmp_path / "site")


def test_a_package_brings_an_objective_a_dataset_and_an_optimizer(extras, command, tmp_path):
    code, _, complaint = command(f"{EXTRAS} {SMALL}")
    assert code == 0, complaint
    (folder,) = tmp_path.glob("runs/bert_tiny-package-span_mlm-*")
    result = json.loads((folder / "result.json").read_text())
    assert result["steps"] == 2 and "15% hidden" in result["validation"]["label"]
    # What a run keeps of its config names the classes as well.
    code, printed, complaint = command(f"evaluate run={folder} cache_root=cache tracker=none")
    assert code == 0, complaint
    assert result["validation"]["fingerprint"] in (folder / "evaluations.json").read_text()


def test_its_choices_are_offered_beside_those_of_lmft(extras, command):
    assert {"clm", "mlm", "span_mlm"} <= set(choices_of("objective"))
    assert "span_mlm" in command("--help")[1]
    assert "Did you mean 'span_mlm'?" in command("objective=span_mlmm")[2]


def test_a_config_alone_runs_no_code_that_no_package_declared(command, tmp_path, path):
    path(EXAMPLE)  # it can be imported, but no entry point declares it
    folder = EXAMPLE / "lmft_extras" / "conf"
    code, _, complaint = command(f"--config-dir {folder} objective=span_mlm {SMALL}")
    assert code == 2 and "choose lmft.objective.CausalLM" in complaint
    assert "lmft_extras" not in sys.modules and not (tmp_path / "runs").exists()


def test_a_package_is_imported_only_when_a_config_names_what_lmft_does_not_know(tmp_path, path):
    (tmp_path / "loud").mkdir()
    (tmp_path / "loud" / "__init__.py").write_text("LMFT_TARGETS = {'optimizer': 'loud.Loud'}\n")
    declare(tmp_path, "loud")
    path(tmp_path)
    check_target("optimizer._target_", "torch.optim.AdamW")
    assert choices_of("optimizer") and "loud" not in sys.modules
    check_target("optimizer._target_", "loud.Loud")
    assert "loud" in sys.modules
    for group, target in {"optimizer": "loud.Other", "objective": "loud.Loud"}.items():
        with pytest.raises(UserError, match=f"{group}._target_ is '{target}'"):
            check_target(f"{group}._target_", target)


def test_a_package_that_cannot_be_imported_is_named(tmp_path, path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "__init__.py").write_text("1 / 0\n")
    declare(tmp_path, "broken")
    path(tmp_path)
    with pytest.raises(UserError, match="package broken.*division by zero.*uninstall it"):
        check_target("optimizer._target_", "broken.Optimizer")


def test_a_class_in_objective_py_needs_no_second_registration(tmp_path, monkeypatch):
    source = Path(allowlist.__file__).parents[1] / "objective.py"
    (tmp_path / "objective.py").write_text(
        source.read_text()
        + "\n\nclass Own:\n    def batch(self):\n        pass\n\n\nclass Heir(Own):\n    pass\n"
        + "\n\nclass NoObjective:\n    pass\n"
    )
    monkeypatch.setattr(allowlist, "LMFT", tmp_path)
    names = {"CausalLM", "MaskedLM", "Own", "Heir"}
    found = own_classes.__wrapped__("lmft.objective", "batch")
    assert found == {f"lmft.objective.{name}" for name in names}


def test_an_entry_point_whose_package_is_gone_keeps_nothing_from_starting(tmp_path, path):
    declare(tmp_path, "gone.inner")
    path(tmp_path)
    assert {"clm", "mlm"} <= set(choices_of("objective"))


def test_a_package_that_comes_or_goes_meanwhile_is_noticed(tmp_path, path):
    path(EXAMPLE)
    path(tmp_path)
    assert "span_mlm" not in choices_of("objective")
    declare(tmp_path, "lmft_extras")
    assert "span_mlm" in choices_of("objective")
    shutil.rmtree(tmp_path / "lmft_extras-1.0.dist-info")
    assert "span_mlm" not in choices_of("objective")
