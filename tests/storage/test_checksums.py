"""Checksums: any damage is found, and what is damaged in a cache is rebuilt."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmft.dataset.token_stream import open_stream
from lmft.dataset.tokenizer import open_trained_tokenizer, tokenizer_digest
from lmft.errors import Fault
from lmft.storage.cache import build_once
from lmft.storage.checksums import CHECKSUMS, is_intact, write_checksums
from tests.helpers.corpus import PROSE, as_split, train_small_tokenizer
from tests.helpers.runs import Fit

CONTENT = st.binary(max_size=40)


def damage(path, position, bit):
    """Flip a bit of the byte at `position`, or cut the file there if `bit` is None."""
    content = bytearray(path.read_bytes())
    if bit is None:
        del content[position:]
    else:
        content[position] ^= 1 << bit
    path.write_bytes(content)


@settings(deadline=None, max_examples=60)
@given(files=st.lists(CONTENT, min_size=1, max_size=3), data=st.data())
def test_any_flipped_bit_and_any_cut_is_found_in_any_file(tmp_path_factory, files, data):
    folder = tmp_path_factory.mktemp("checked")
    (folder / "inner").mkdir()
    for number, content in enumerate(files):
        (folder / ("inner" if number == 2 else ".") / f"{number}.bin").write_bytes(content)
    write_checksums(folder)
    assert is_intact(folder)
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    path = data.draw(st.sampled_from(paths))
    position = data.draw(st.integers(0, path.stat().st_size - 1))
    damage(path, position, data.draw(st.none() | st.integers(0, 7)))
    assert not is_intact(folder)


def test_no_bit_of_the_checksums_can_flip_unnoticed(tmp_path):
    (tmp_path / "some.bin").write_bytes(b"content")
    write_checksums(tmp_path)
    whole = (tmp_path / CHECKSUMS).read_bytes()
    for position in range(len(whole)):
        for bit in (*range(8), None):
            damage(tmp_path / CHECKSUMS, position, bit)
            assert not is_intact(tmp_path)
            (tmp_path / CHECKSUMS).write_bytes(whole)
    assert is_intact(tmp_path)


def test_a_file_too_many_or_too_few_is_found(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    write_checksums(tmp_path)
    (tmp_path / "more").write_bytes(b"")
    assert not is_intact(tmp_path)
    (tmp_path / "more").unlink()
    assert is_intact(tmp_path)
    (tmp_path / "empty").unlink()
    assert not is_intact(tmp_path)


def test_a_check_takes_a_few_milliseconds_for_10_megabytes(tmp_path):
    (tmp_path / "ids.bin").write_bytes(bytes(range(250)) * 400_000)  # 100 MB
    write_checksums(tmp_path)
    started = time.perf_counter()
    assert is_intact(tmp_path)
    assert (time.perf_counter() - started) / 10 < 0.05  # 3 ms where nothing else is at work


@pytest.mark.parametrize("name", ["ids.bin", "ends.bin", "about.json", CHECKSUMS])
@pytest.mark.parametrize("bit", [5, None])
def test_a_damaged_token_cache_is_reported_and_rebuilt(name, bit, tmp_path, caplog):
    tokenizer = train_small_tokenizer()

    def open_ids():
        split = as_split([PROSE, PROSE * 2])
        return open_stream(split, tokenizer, "eos", tmp_path).ids.tolist()

    expected = open_ids()
    (folder,) = (path for path in (tmp_path / "tokens").iterdir() if path.is_dir())
    assert open_ids() == expected and not caplog.records
    damage(folder / name, (folder / name).stat().st_size // 2, bit)
    assert open_ids() == expected
    (record,) = caplog.records
    assert record.getMessage() == f"{folder} failed its checksum; rebuilding."
    assert is_intact(folder) and open_ids() == expected and len(caplog.records) == 1


def test_a_damaged_tokenizer_in_the_cache_is_trained_again(tmp_path, caplog):
    def digest_now():
        return tokenizer_digest(
            open_trained_tokenizer(lambda: iter([PROSE] * 9), "a", 300, tmp_path)
        )

    expected = digest_now()
    (file,) = tmp_path.glob("tokenizers/*/tokenizer.json")
    damage(file, file.read_bytes().index(b"sat"), 2)
    assert digest_now() == expected
    assert "failed its checksum; rebuilding" in caplog.text


def test_a_build_that_fails_leaves_nothing_behind(tmp_path):
    def fail(folder):
        (folder / "half").write_text("half")
        raise OSError(28, "No space left on device")

    folder = tmp_path / "some" / "folder"
    for _ in range(2):
        with pytest.raises(Fault, match=f"No space left on the disk for {folder}"):
            build_once(folder, fail)
        assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == []
    build_once(folder, lambda path: (path / "whole").write_text("whole"))
    assert is_intact(folder)


def test_best_weights_that_were_damaged_do_not_become_the_result(corpus, tmp_path):
    fit = Fit(tmp_path)
    overrides = [
        *corpus, "dataset.block_size=16", "trainer.max_steps=6", "trainer.evaluate_every=3",
        "trainer.checkpoint_every=2", "optimizer.lr=1e-2", "hardware.precision=fp32",
    ]  # fmt: skip
    ruined = []

    def ruin(step, folder):
        """Damage the best weights after the last validation; never prunes."""
        best = folder / "checkpoints" / f"best-{step}" / "model.safetensors"
        if step == 6 and not ruined:
            damage(best, best.stat().st_size // 2, 3)
            ruined.append(best.parent)
        return False

    with pytest.raises(Fault) as told:
        fit(*overrides, prune=ruin)
    assert str(ruined[0]) in str(told.value) and "same command again" in str(told.value)
    (folder,) = (tmp_path / "runs").glob("*-*")
    assert not (folder / "result.json").exists() and not (folder / "checkpoint").exists()
    again = fit(*overrides)
    weights = (again / "checkpoint" / "model.safetensors").read_bytes()
    whole = Fit(tmp_path / "straight")(*overrides)
    assert weights == (whole / "checkpoint" / "model.safetensors").read_bytes()
    assert not (again / "checkpoint" / CHECKSUMS).exists()
