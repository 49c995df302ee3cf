"""The screen is never a reason to end: closed, full, of another encoding, of width 0."""

import io
import os
import pty
import subprocess
import sys
import threading

import pytest

from lmft.commands.isolation import as_library
from lmft.output.streams import make_streams_unfailing
from lmft.output.terminal import SHOWN_KNOBS, Screen, Terminal
from tests.helpers.mlflow import Store
from tests.helpers.processes import ROOT, start
from tests.helpers.runs import train_command


@pytest.fixture
def as_stdout(monkeypatch):
    """Make a descriptor the standard output of this process, as `lmft` prepares it."""

    def replace(descriptor, encoding="utf-8"):
        file = io.FileIO(descriptor, "w", closefd=False)
        stream = io.TextIOWrapper(io.BufferedWriter(file), encoding=encoding)
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "stderr", sys.stderr)
        make_streams_unfailing()
        assert sys.stdout is not stream

    return replace


def test_what_cannot_be_shown_is_replaced(as_stdout, tmp_path):
    with (tmp_path / "out").open("wb") as file:
        as_stdout(file.fileno(), "cp1252")
        print("naïve → 日本 \udcff")
        Terminal().show_samples("before training", [("the cat", "est allé à 東京")])
        Terminal().show_config("x", {name: {} for name in SHOWN_KNOBS})
        sys.stdout.flush()
    shown = (tmp_path / "out").read_bytes().decode("cp1252")
    assert shown.startswith("naïve ? ?? ?\n") and "the cat ? est allé à ??" in shown
    assert "+-- dataset" in shown  # rich draws in ASCII then


def test_what_is_written_unbuffered_arrives_at_each_line(monkeypatch, tmp_path):
    with (tmp_path / "out").open("wb") as file:
        raw = io.BufferedWriter(io.FileIO(file.fileno(), "w", closefd=False))
        stream = io.TextIOWrapper(raw, write_through=True)  # as by PYTHONUNBUFFERED=1
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "stderr", sys.stderr)
        make_streams_unfailing()
        print("step 1")
        assert (tmp_path / "out").read_text() == "step 1\n"


def test_a_full_disk_of_the_screen_is_said_once(as_stdout, caplog):
    with open("/dev/full", "wb") as full:
        as_stdout(full.fileno())
        for _ in range(3):
            print("x" * 10_000, flush=True)
            Terminal().print("→")
    assert [record.getMessage() for record in caplog.records] == [
        "stdout can't be written to (No space left on device); its text is lost."
    ]


@pytest.mark.parametrize("lost", ["pipe", "closed"])
def test_a_lost_reader_is_no_error(as_stdout, caplog, lost):
    reader, writer = os.pipe()
    as_stdout(writer)
    print("seen", flush=True)
    assert os.read(reader, 10) == b"seen\n"
    os.close(reader)
    if lost == "closed":
        os.close(writer)
    Terminal().print("lost")
    Screen().print("lost")
    print("lost", flush=True)
    if lost == "pipe":
        os.close(writer)
    assert not caplog.records


def test_a_screen_that_blocks_is_waited_for(as_stdout):
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    as_stdout(writer)
    text, read = "x" * 300_000, []

    def drain():
        while sum(map(len, read)) < len(text):
            read.append(os.read(reader, 4096))

    thread = threading.Thread(target=drain)
    thread.start()
    sys.stdout.write(text)
    sys.stdout.flush()
    thread.join(10)
    assert b"".join(read).decode() == text
    os.close(reader)
    os.close(writer)


def test_streams_that_were_closed_at_the_start_are_files_of_nothing(monkeypatch):
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    make_streams_unfailing()
    print("lost")
    print("lost", file=sys.stderr)
    Terminal().print("lost")
    assert sys.stdin.read() == "" and not sys.stdout.isatty()
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        stream.close()


def test_a_library_call_needs_no_screen_either_and_restores_the_streams(monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    stream = io.TextIOWrapper(io.BufferedWriter(io.FileIO(writer, "w", closefd=False)))
    monkeypatch.setattr(sys, "stdout", stream)
    before = sys.stdin, sys.stdout, sys.stderr
    with as_library():
        Terminal().print("lost")
        print("lost", flush=True)
    assert (sys.stdin, sys.stdout, sys.stderr) == before
    stream.close()  # nothing waits in it
    os.close(writer)


def test_a_terminal_that_was_closed_is_no_error(as_stdout, caplog):
    master, terminal = pty.openpty()
    as_stdout(terminal)
    with Terminal(Screen(force_terminal=True)).progress(9) as bars:
        bars.show_step(1, "loss 1")
        os.close(master)
        bars.show_step(2, "loss 1")
        print("lost", flush=True)
    os.close(terminal)
    assert not caplog.records


def test_streams_in_memory_stay(monkeypatch):
    memory = io.StringIO()
    monkeypatch.setattr(sys, "stdout", memory)
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO()))
    make_streams_unfailing()
    assert sys.stdout is memory


@pytest.mark.parametrize("columns", ["0", "00", "1", "80"])
def test_a_width_of_nothing_is_no_width(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("LINES", "0")
    screen = Screen(file=io.StringIO())
    assert screen.width == (int(columns) or 80)
    terminal = Terminal(screen)
    terminal.show_samples("before training", [("the cat", "sat")])
    terminal.show_sizes({"model": "1 MB"})
    assert "".join(screen.file.getvalue().split()).startswith("Samplesbeforetraining")


def test_an_evaluation_alone_shows_no_training_bar():
    screen = Screen(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    screen.file.isatty = lambda: True
    for steps, name in ((0, "test"), (9, "training")):
        with Terminal(screen).progress(steps) as bars, bars.evaluation("test", 4) as advance:
            advance(4)
        shown = screen.file.getvalue()
        assert "test" in shown and ("training" in shown) == (name == "training")


def test_no_command_ends_by_its_screen(tmp_path):
    """A verb, the help and a mistake, each with every way to lose both streams."""
    code = """
import os, sys
from lmft import cli
import lmft.commands.runs
for line, expected in (("runs", 0), ("--help", 0), ("nosuch", 2)):
    for lost in sys.argv[1:]:
        child = os.fork()
        if not child:
            null = os.open(os.devnull, os.O_WRONLY)
            full = os.open("/dev/full", os.O_WRONLY)
            reader, pipe = os.pipe()
            os.close(reader)
            for number in (1, 2):
                {"full": lambda: os.dup2(full, number), "pipe": lambda: os.dup2(pipe, number),
                 "closed": lambda: os.close(number)}[lost]()
            os.environ["COLUMNS"] = "0"
            sys.argv = ["lmft", line]
            sys.exit(cli.main())
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code == expected, (line, lost, code)
"""
    words = [sys.executable, "-c", code, "full", "pipe", "closed"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_a_library_prints_goes_into_no_file_of_the_run(tmp_path):
    code = """
import os
from lmft.commands.isolation import as_library
from lmft.output.streams import open_closed_descriptors
for number in range(3):
    os.close(number)
open_closed_descriptors()
with open("file", "wb") as file:
    assert file.fileno() > 2
    os.write(1, b"of a library")
    os.system("echo of a child")
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, env={
        **os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    assert (tmp_path / "file").read_bytes() == b""


def lines_read(path, count):
    """Read lines of a pipe as `head` does, then close it."""
    with path.open() as pipe:
        return [pipe.readline() for _ in range(count)]


def test_training_goes_on_when_its_reader_has_gone(corpus, tmp_path, store_at_hand):
    os.mkfifo(tmp_path / "pipe")
    process = start(train_command(corpus), tmp_path, tmp_path / "pipe")
    assert len(lines_read(tmp_path / "pipe", 3)) == 3
    process.join(60)
    assert process.exitcode == 0
    (result,) = tmp_path.glob("runs/*/result.json")
    assert Store(tmp_path).run_of(result.parent).info.status == "FINISHED"


def test_training_onto_a_full_screen_ends_well(corpus, tmp_path):
    process = start(train_command(corpus, "clm", "tracker=none"), tmp_path, "/dev/full")
    process.join(60)
    assert process.exitcode == 0
    assert list(tmp_path.glob("runs/*/result.json"))
