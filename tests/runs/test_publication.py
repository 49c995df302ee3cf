"""What is published of a run: paths of this machine become names."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from lmft.runs.publication import names_of_paths, plain, shorten

CONFIG = {
    "dataset": {"train": ["/data/my corpus/a.txt", "../private/b.txt"], "validation": "c.txt"},
    "model": {"name": "owner/name", "tokenizer": "./tok/mine", "revision": "main"},
    "optimizer": {"lr": "${either:a,b}"},
    "tracker": {"uri": "http://10.0.0.1:5000"},
    "run_root": "/scratch/runs",
}


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("train=['/data/my corpus/a.txt',../private/b.txt]", "train=['a.txt',b.txt]"),
        ("name=owner/name tokenizer=./tok/mine", "name=owner/name tokenizer=mine"),
        ("tracker.uri=http://10.0.0.1:5000", "tracker.uri=..."),
        ("sqlite:////home/me/runs/mlflow.db", "sqlite:///mlflow.db"),
        ("| my\\_model | /home/me/my\\_models/x, content |", "| my\\_model | x, content |"),
        (f"directory {Path.home()}/runs and ~/runs", "directory runs and runs"),
        ("https://host/some/path 4,461 tokens/s </details> a/b/c", None),
        ("lr: ${either:a,b} [1/2] /x", None),
    ],
)  # fmt: skip
def test_a_path_becomes_its_last_name_and_all_else_stays(text, short):
    names = names_of_paths(plain(OmegaConf.create(CONFIG)), Path("/scratch/runs/NAME"))
    assert shorten(text, names) == (text if short is None else short)
