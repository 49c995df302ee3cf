"""A mistake is reported in one sentence with the way out, and leaves nothing behind."""

import json
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
import time
import tracemalloc
from contextlib import closing
from dataclasses import fields, is_dataclass
from types import NoneType
from typing import get_args, get_type_hints

import pytest
import yaml
from hydra.core.plugins import Plugins
from hydra.errors import MissingConfigException
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from lmft.config import CONF
from lmft.config.build import check_types
from lmft.config.dataset_knobs import TextErrors
from lmft.config.error_messages import as_user_error
from lmft.config.groups import known_names
from lmft.config.guarded_loader import check_hydra_numbers
from lmft.config.ranges import RANGES
from lmft.config.schema import RunConfig
from lmft.dataset.sources import TextFiles
from lmft.errors import UserError
from lmft.runs.run import Run
from lmft.storage.checksums import is_intact
from tests.helpers.bad_files import TEXT, write_bad_files
from tests.helpers.mistakes_table import MACHINE, MORE_ROWS, QUICK, ROWS, SPAWNED, WRONG_NUMBERS
from tests.helpers.processes import ROOT
from tests.helpers.runs import compose

EVERY = ROWS | MORE_ROWS
SECONDS = 10  # of the processor's time: what else a busy machine does is not counted


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    write_bad_files(folder)
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def as_command(line, bad, cache):
    line = line.replace("@/", f"{bad}/")
    if line.split()[0].isidentifier() or "=" not in line:
        return line
    return f"{QUICK} cache_root={cache} {line}"


def check_complaint(line, bad, code, complaint):
    assert code == (1 if line in MACHINE else 2), complaint
    assert complaint.startswith("lmft: ") and complaint.count("\n") == 1, complaint
    assert "Traceback" not in complaint
    for words in EVERY[line]:
        assert words.replace("@/", f"{bad}/") in complaint


def check_nothing_is_left(folder, cache):
    assert not [*folder.rglob("run.json"), *folder.rglob("result.json")]
    for path in cache.glob("*/*"):
        assert path.suffix == ".lock" or is_intact(path), path
    store = folder / "mlflow.db"
    if store.exists():
        with closing(sqlite3.connect(store)) as connection:
            running = "SELECT count(*) FROM runs WHERE status = 'RUNNING'"
            assert connection.execute(running).fetchone() == (0,)


def test_the_table_is_long():
    assert len(ROWS) >= 120 and len(EVERY) >= 200
    assert len(set(SPAWNED) & set(ROWS)) == len(SPAWNED) == 3


@pytest.mark.parametrize("line", ROWS)
def test_a_mistake_is_reported_in_one_sentence(line, command, bad, cache, tmp_path, store_at_hand):
    started = time.process_time()
    code, _, complaint = command(as_command(line, bad, cache))
    assert time.process_time() - started < SECONDS
    check_complaint(line, bad, code, complaint)
    check_nothing_is_left(tmp_path, cache)


def check_spawned(line, bad, folder, store):
    folder.mkdir()
    shutil.copy(store, folder)
    words = shlex.split(as_command(line, bad, folder / "cache"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    with (folder / "complaint.txt").open("w+") as complaint:
        process = subprocess.Popen(
            [sys.executable, "-m", "lmft", *words],
            cwd=folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=complaint,
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        complaint.seek(0)
        check_complaint(line, bad, process.returncode, complaint.read())
    assert used.ru_utime + used.ru_stime < SECONDS
    check_nothing_is_left(folder, folder / "cache")


@pytest.mark.parametrize("line", SPAWNED)
def test_a_process_of_its_own_reports_the_same(line, bad, tmp_path, empty_store):
    check_spawned(line, bad, tmp_path / "there", empty_store)


@pytest.mark.soak
@pytest.mark.parametrize("line", MORE_ROWS)
def test_a_similar_mistake_is_reported_in_one_sentence(
    line, command, bad, cache, tmp_path, store_at_hand
):
    test_a_mistake_is_reported_in_one_sentence(line, command, bad, cache, tmp_path, store_at_hand)


@pytest.mark.soak
@pytest.mark.parametrize("line", EVERY)
def test_every_mistake_in_a_process_of_its_own(line, bad, tmp_path, empty_store):
    check_spawned(line, bad, tmp_path / "there", empty_store)


def test_the_pages_have_the_length_of_the_table():
    for page in ("README.md", "docs/faults.md", "docs/promises.md"):
        assert re.search(rf"\b{len(EVERY)}\b", (ROOT / page).read_text())


def test_a_launcher_without_its_plug_in_is_named_with_the_extra():
    error = MissingConfigException("", "hydra/launcher/joblib", ["basic"])
    assert str(as_user_error(error)).endswith("needs a plug-in; pip install 'lmft[joblib]'.")


def test_a_launcher_of_conf_without_its_plug_in_is_named_with_the_extra():
    name = "hydra_plugins.hydra_ray_launcher.ray_launcher.NotThere"
    with pytest.raises(RuntimeError) as raised:  # as where the package is missing
        Plugins.instance()._instantiate(OmegaConf.create({"_target_": name}))
    message = str(as_user_error(raised.value, composing=True))
    command = "pip install 'lmft[ray]', in an environment of its own."
    assert message.endswith(f"hydra-ray-launcher, which is not installed; {command}")


def test_debug_shows_the_traceback(command):
    code, _, complaint = command("trainer.epochs=-1 debug=true")
    assert code == 2
    assert complaint.startswith("Traceback")
    assert complaint.splitlines()[-1].startswith("lmft: trainer.epochs must be a number above 0")


def numeric_knobs():
    """Each numeric knob, with whether it may be null: of the schema, and by _target_ of conf/."""
    for group, kind in get_type_hints(RunConfig).items():
        if is_dataclass(kind):
            hints = get_type_hints(kind)
            named = {f"{group}.{some.name}": hints[some.name] for some in fields(kind)}
        else:
            named = {group: kind}
        for knob, hint in named.items():
            kinds = set(get_args(hint) or [hint])
            if kinds & {int, float}:
                yield knob, NoneType in kinds
    for path in (
        path
        for group in ("objective", "optimizer", "hydra/sweeper")
        for path in sorted((CONF / group).glob("*.yaml"))
    ):
        for name, value in yaml.safe_load(path.read_text()).items():
            first = value[0] if isinstance(value, list) else value
            if type(first) in (int, float) or "${either" in str(first):
                knob = f"{'.'.join(path.parent.relative_to(CONF).parts)}.{name}"
                yield knob, None


def test_every_numeric_knob_has_a_range():
    found = dict(numeric_knobs())
    assert len(found) > 25 and not found.keys() - RANGES.keys()
    for knob, optional in found.items():
        assert optional is None or (None in RANGES[knob]) == optional, knob


@pytest.fixture(scope="module")
def composed():
    return {
        "": compose(),
        "objective.mask_fraction": compose("objective=mlm", "model=bert_tiny"),
    }


@pytest.mark.parametrize("knob", RANGES)
def test_no_wrong_number_is_taken(knob, composed):
    group, _, name = knob.rpartition(".")
    for value in [value for value in WRONG_NUMBERS.values() if value not in RANGES[knob]]:
        with pytest.raises(Exception) as caught:
            if group.startswith("hydra"):
                part = group.rpartition(".")[2]
                check_hydra_numbers(OmegaConf.create({part: {name: value}}))
            else:
                changed = composed.get(knob, composed[""]).copy()
                OmegaConf.update(changed, knob, value)
                check_types(changed)
        told = str(as_user_error(caught.value))
        assert told.startswith(f"{knob} must be a ") and "\n" not in told


# What people and programs write after an equals sign.
ODD = (
    "|null|true|auto|none|inf|-nan|1e99|[]|[1,2]|{a:1}|{}|${x}|${seed}|${run_root}|???|a b|a,b|'|"
    '"|{|]|%|#|~|\\|ä|\N{CAT FACE}|0x10|1_000|-0|None|sqlite://|os.system'
)
VALUES = st.one_of(
    st.sampled_from(ODD.split("|")),
    st.integers(-(2**70), 2**70).map(str),
    st.floats().map(str),
    st.text(max_size=8).filter(lambda text: "\0" not in text),
)
KNOBS = st.sampled_from(sorted(name for name in known_names() if not name.startswith("hydra")))
NAMES = st.one_of(
    KNOBS,
    st.builds(lambda name, at: name[:at] + name[at + 1 :], KNOBS, st.integers(0, 9)),
    st.builds(str.__add__, st.sampled_from(["+", "++", "~"]), KNOBS),
)
WORDS = st.lists(st.tuples(NAMES, VALUES).map("=".join), min_size=1, max_size=3)


def check_words(words):
    """Check that they make a config, or a mistake of one sentence."""
    try:
        composed = compose(*words)
    except Exception as error:
        mistake = as_user_error(error, composing=True)
    else:
        try:
            _ = Run(composed).config
            return
        except Exception as error:
            mistake = as_user_error(error)
            if mistake is None:
                raise
    assert isinstance(mistake, UserError)
    assert str(mistake).strip() and "\n" not in str(mistake).strip()


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(WORDS)
@example(["optimizer.lr=[1,2]"])
def test_whatever_is_written_makes_a_config_or_a_sentence(words):
    check_words(words)


@pytest.mark.soak
@settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))
@given(WORDS)
def test_whatever_else_is_written_makes_a_config_or_a_sentence(words):
    check_words(words)


def read(path, errors=TextErrors.strict):
    (part,) = TextFiles("text", errors).parts(str(path))
    return "".join(part.read())


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1 << 20])
def test_a_bom_and_returns_before_newlines_are_removed(size, tmp_path, monkeypatch):
    monkeypatch.setattr("lmft.dataset.decoding.CHUNK", size)
    path = tmp_path / "windows.txt"
    text = "\N{CAT FACE}one\r\n\r\ntw\ro\r\r\n\ufeffthree\r"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert read(path) == text.replace("\r\n", "\n")


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1 << 20])
def test_invalid_text_is_replaced_on_request(size, tmp_path, monkeypatch):
    monkeypatch.setattr("lmft.dataset.decoding.CHUNK", size)
    path = tmp_path / "rows.txt"
    path.write_bytes(b"caf\xe9 \0 \xf0\x9f\n\xc3\xa9\xf0\x9f")
    assert read(path, TextErrors.replace) == "caf\ufffd \ufffd \ufffd\n\xe9\ufffd"
    with pytest.raises(UserError, match="byte 3 is 0xe9"):
        read(path)


@pytest.mark.parametrize("name", ["nul.jsonl", "half.jsonl", "latin1.parquet"])
def test_invalid_text_in_records_is_replaced_on_request(name, bad):
    assert "\ufffd" in read(bad / name, TextErrors.replace)


def test_the_handling_of_invalid_text_is_part_of_the_digest(bad):
    def find(errors):
        return TextFiles("text", errors).digest(str(bad / "latin1.txt"))

    assert find(TextErrors.strict) != find(TextErrors.replace)


def test_windows_line_ends_are_read_as_lf_and_reported_once(command, tmp_path, bad):
    for split, count in {"train": 2, "validation": 1}.items():
        (tmp_path / split).mkdir()
        for name in "ab"[:count]:
            text = b"\xef\xbb\xbf" + TEXT.replace(b"\n", b"\r\n")
            (tmp_path / split / f"{name}.txt").write_bytes(text * count)
    line = f"{QUICK} dataset=text_files dataset.train=train dataset.validation=validation/a.txt "
    line += f"model=pretrained model.name={bad}/model dataset.block_size=32 cache_root=cache "
    code, _, complaint = command(line + "tracker=none hardware=cpu")
    assert code == 0
    assert complaint.count("which is read as LF") == 2, "once for each folder"
    streams = [path.stat().st_size for path in tmp_path.glob("cache/tokens/*/ids.bin")]
    assert len(streams) == 2 and all(streams)


LONG = 50_000_000  # bytes of a line


@pytest.fixture(scope="module")
def long_line(tmp_path_factory):
    path = tmp_path_factory.mktemp("long") / "line.txt"
    path.write_bytes((b"the cat sat on a mat " * (LONG // 21 + 1))[:LONG])
    return path


def test_a_line_of_50_mb_is_read_in_little_memory(long_line):
    tracemalloc.start()
    (part,) = TextFiles("text").parts(str(long_line))
    assert sum(map(len, part.read())) == LONG
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * LONG


@pytest.mark.soak
def test_a_line_of_50_mb_is_trained_on_in_less_than_1_gb(long_line, bad, tmp_path):
    line = f"model=pretrained model.name={bad}/model dataset=text_files dataset.train={long_line} "
    line += f"dataset.validation={bad}/fine.txt dataset.block_size=32 trainer.max_steps=2 "
    line += "cache_root=cache tracker=none"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    words = [sys.executable, "-m", "lmft", *shlex.split(line)]
    subprocess.run(words, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, check=True)
    (result,) = tmp_path.glob("runs/*/result.json")
    assert json.loads(result.read_text())["timing"]["peak_memory_bytes"] < 1e9
