"""Importing lmft changes no state of other libraries."""

import subprocess
import sys

CODE = """
import gc, importlib, pkgutil
gc.disable()  # the search for garbage would take a third of the time
from huggingface_hub.utils import are_progress_bars_disabled
from hydra._internal import hydra
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.utils import logging

def state():
    return (
        logging.get_verbosity(),
        logging.is_progress_bar_enabled(),
        are_progress_bars_disabled(),
        AttentionInterface().valid_keys(),
        AttentionMaskInterface().valid_keys(),
        hydra.ConfigLoaderImpl,
    )

before = state()
import lmft
names = [module.name for module in pkgutil.walk_packages(lmft.__path__, "lmft.")]
names.remove("lmft.__main__")
for name in names:
    importlib.import_module(name)
assert state() == before, (before, state())
print(len(names))
"""


def test_importing_every_module_changes_neither_transformers_nor_hydra():
    printed = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert printed.returncode == 0, printed.stderr
    assert int(printed.stdout) > 100
