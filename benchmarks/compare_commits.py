"""Prove that a refactoring changed no number: run small configurations at two commits, compare.

    python -m benchmarks.compare_commits OLD NEW [--only NAME ...] [--keep FOLDER]

OLD and NEW are git revisions; NEW may be `.` or `worktree`, the files as they are now. Each side
runs its own copy of the code, with the same words, threads and relative paths. NEW also continues
what OLD began: it shows finished runs and resumes killed ones. --keep stores OLD's outputs in
FOLDER/COMMIT for the next comparison. The exit code is 1 if anything differs.
"""

import argparse
import json
import os
import random
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("LMFT_SHARED", ROOT.parent / "shared")).absolute()
STORIES = SHARED / "models" / "stories260k"

PLACES = "tracker=none run_root=runs cache_root=cache hardware.device=cpu"
SHORT = (
    f"{PLACES} trainer.max_steps=18 trainer.evaluate_every=6 trainer.batch_size=4 "
    "dataset=text_files dataset.train=corpus/train.txt dataset.validation=corpus/valid.txt "
    "dataset.test=corpus/test.txt dataset.document=blank_line dataset.block_size=24 "
    "model.vocab_size=300"
)
FP32, BF16, FP16 = (f"hardware.precision={name}" for name in ("fp32", "bf16", "fp16"))
GPT2 = f"{SHORT} model=gpt2_tiny model.config={{n_layer:1,n_embd:32,n_head:2}}"
BERT = f"{SHORT} objective=mlm model=bert_tiny model.config={{hidden_size:32}}"
REAL = f"{SHORT} {FP32} model=pretrained model.name={STORIES}"
KILLED, KILL_AT = "trainer.checkpoint_every=3", 6  # steps
TWO = "hardware.processes=2 hardware.micro_batch_size=1"
SCORE = "evaluate run={runs} cache_root=cache"
# Words of lmft; commands separated by && run one after another in one folder, and {runs} are its
# runs so far. KILLED ones also run in another folder, are killed at step KILL_AT, and resumed.
CONFIGURATIONS = {
    "fsdp": f"{GPT2} {FP32} hardware=fsdp {TWO} {KILLED}",
    "ddp": f"{GPT2} {BF16} hardware=ddp {TWO}",
    "sweep": f"-m {GPT2} {FP32} tracker=mlflow seed=0,1 && compare {{runs}}",
    "search": f"-m {GPT2} {FP32} hydra/sweeper=lr_search hydra.sweeper.n_trials=4 "
    "hydra.sweeper.sampler.n_startup_trials=2 hydra.sweeper.pruner.n_startup_trials=1",
    "evaluate": f"{GPT2} {FP32} trainer.epochs=1 trainer.evaluate_every=null"
    f" && {SCORE} evaluation.stride=8"
    f" && {SCORE} evaluation.split=validation evaluation.context=16 {BF16}"
    " && generate run={runs} prompt='the cat' tokens=20 seed=1",
    "evaluate_mlm": f"{BERT} {BF16} hardware.checkpoint_activations=true"
    f" && {SCORE} evaluation.mask_draws=2"
    f" && {SCORE} evaluation.pseudo=true evaluation.max_blocks=3",
    "clm": f"{GPT2} {FP32} {KILLED}",
    "mlm": f"{BERT} {FP32} objective.mask_fraction=0.3 {KILLED}",
    "bf16": f"{GPT2} {BF16} model.dropout=0.2 hardware.micro_batch_size=3 {KILLED}",
    "fp16": f"{GPT2} {FP16} trainer.on_nonfinite=skip optimizer.lr=0.1",
    "dropout": f"{GPT2} {FP32} model.dropout=0.3",
    "accumulation": f"{GPT2} {FP32} trainer.batch_size=8 hardware.micro_batch_size=3",
    "patience": f"{GPT2} {FP32} trainer.patience=2 trainer.evaluate_every=3 optimizer.lr=1 "
    "trainer.schedule=constant",  # the best weights are not the last
    "adafactor": f"{GPT2} {FP32} optimizer=adafactor trainer.schedule=cosine "
    "trainer.warmup_steps=4 trainer.shuffle=false trainer.max_grad_norm=0.5",
    "documents": f"{GPT2} {FP32} dataset.train=corpus/many dataset.document=file "
    "dataset.separator=+++ dataset.test=null dataset.validation=null "
    "dataset.validation_fraction=0.3 evaluation.stride=10 evaluation.max_blocks=40",
    "lines": f"{GPT2} {FP32} dataset.document=line dataset.separator=none seed=3",
    "chunks": f"{PLACES} {FP32} model.config={{n_layer:1,n_embd:32,n_head:2}} "
    "model.vocab_size=16384 dataset.block_size=512 trainer.batch_size=12 trainer.max_steps=2 "
    "hardware.micro_batch_size=12 evaluation.max_blocks=9",  # logits of more than 128 MiB
    "defaults": f"{PLACES} trainer.max_steps=5 dataset.max_documents=12 dataset.block_size=64",
    "pretrained": f"{REAL} && evaluate {REAL}",
}

EXCLUDED_FILES = {  # what is not compared, and why
    "corpus/*": "written by this script",
    "cache/*": "an intermediate result: all numbers depend on it",
    "log-*": "speeds, times, paths and wording",
    "*.lock": "process ids",
    "runs/.launches/*": "folders named by the time",
    "runs/*/.hydra/*": "the launch's time and paths",
    "runs/*/run.log": "times",
    "runs/*/card.md": "wording, speed, memory, directory",
    "runs/*/checkpoint/README.md": "the card again",
    "*.html": "wording",
    "*.svg": "style",
    "runs/*/checksums.json": "checksums of state.json, which holds seconds",
    "runs/sweep-*/best.json": "8dcc21f did not write it",
    "mlartifacts/*": "copies of the runs' texts, in folders of random names",
}
MEASURED = {  # parts of files that are not compared: times, speeds and memory
    "*/metrics.jsonl": rb'"(time|train/tokens_per_second|train/share_of_limit)": [^,}]*',
    "*/result.json": rb'"timing": \{[^}]*\}',
    "*/state.json": rb'"seconds": [^,}\s]*',
}
DECIMALS = "*.md"  # comparison and leaderboard: only their decimal numbers are compared
# Compared in any order, without "tags" (host, process, a random id) and the tracker's knobs.
FACTS = "run.json"
QUERIES = {  # what is compared of a database
    "mlflow.db": "SELECT name, key, step, value, is_nan FROM metrics JOIN runs USING (run_uuid) "
    "WHERE key NOT IN ('train/tokens_per_second', 'train/share_of_limit') ORDER BY 1, 2, 3",
    "runs/.studies/*.db": "SELECT number, state, param_name, param_value, step, intermediate_value,"
    " value FROM trials JOIN trial_params USING (trial_id) LEFT JOIN trial_values USING (trial_id)"
    " LEFT JOIN trial_intermediate_values USING (trial_id) ORDER BY 1, 3, 5",
}
COLUMNS = {  # each with its files; a file belongs to the first column that matches
    "run keys": ("runs/*/run.json",),
    "metrics.jsonl": ("runs/*/metrics.jsonl", "mlflow.db"),
    "result.json": ("runs/*/result.json", "runs/*/evaluations.json"),
    "checkpoints": ("runs/*/checkpoint/*", "runs/*/checkpoints/*"),
    "other": ("*",),
}
VERSIONS = [sys.version, *map(version, ("torch", "transformers"))]
SECONDS = 600  # that a command may take


@dataclass(frozen=True)
class Side:
    """The code of one commit, and the folder of its outputs."""

    code: Path
    outputs: Path

    def make(self, name: str) -> float:
        """Run a configuration, unless its outputs are stored; return the seconds that it took."""
        folder, words = self.outputs / name, CONFIGURATIONS[name]
        done, about = folder / "done.json", [words, *VERSIONS]
        if done.exists() and (made := json.loads(done.read_text()))["about"] == about:
            return float(made["seconds"])
        shutil.rmtree(folder, ignore_errors=True)
        started = time.monotonic()
        self.run(words, folder / "whole")
        if KILLED in words:
            self.run(words, folder / "killed", killed=True)
        seconds = time.monotonic() - started
        done.write_text(json.dumps({"about": about, "seconds": seconds}))
        return seconds

    def resume(self, name: str, begun: Path, title: str) -> dict[str, bytes]:
        """Run the commands again in a copy of the folder `begun`; return what it then contains."""
        folder = self.outputs / name / title
        # Without its store, which would refer to the folder that was copied.
        left_out = shutil.ignore_patterns("log-*", "mlflow.db", "mlartifacts")
        shutil.copytree(begun, folder, ignore=left_out)
        self.run(CONFIGURATIONS[name], folder)
        if begun.name == "killed" and " from step " not in (folder / "log-0").read_text():
            raise RuntimeError("the killed run was not resumed")
        return read_all(folder, untouched=begun.name == "whole")

    def run(self, commands: str, folder: Path, killed: bool = False) -> None:
        """Run the commands in `folder` to their end, or kill them on the way."""
        write_corpus(folder / "corpus")
        for number, words in enumerate(commands.split(" && ")):
            runs = " ".join(str(path.parent) for path in sorted(folder.glob("runs/*/result.json")))
            split = shlex.split(words.replace("{runs}", runs.replace(f"{folder}/", "")))
            log = folder / f"{'text' if split[0] == 'generate' else 'log'}-{number}"
            with log.open("w") as file:
                process = subprocess.Popen(
                    [sys.executable, "-m", "lmft", *split],
                    cwd=folder,
                    env=environment(self.code),
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    start_new_session=killed,
                )
            try:
                code = kill(process, folder) if killed else process.wait(SECONDS)
            finally:
                process.kill()  # after a timeout
            if code:
                last = log.read_text().strip().rpartition("\n")[2]
                raise RuntimeError(f"{log} ends with exit code {code}: {last}")


def kill(process: subprocess.Popen[bytes], folder: Path) -> int:
    """Kill a run and its children once it has a checkpoint of step KILL_AT or a later one."""
    deadline = time.monotonic() + SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        found = [path.name for path in folder.glob("runs/*/checkpoints/step-*")]
        if any(int(name.removeprefix("step-")) >= KILL_AT for name in found):
            os.killpg(process.pid, signal.SIGKILL)
            return int(process.wait() != -signal.SIGKILL)
        time.sleep(0.002)
    return process.returncode or 1


def environment(code: Path) -> dict[str, str]:
    """Return the environment of a command: only `code` is imported, with one thread."""
    others = ("HF_", "LMFT_", "MKL_", "MLFLOW_", "OMP_", "PYTHON", "LOCAL_RANK", "RANK", "WORLD_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    return kept | {
        "PYTHONPATH": f"{code}:{code.parent}",
        "OMP_NUM_THREADS": "1",  # more threads sum in another order
        "HF_HUB_OFFLINE": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "COLUMNS": "400",  # no line is wrapped
    }


def write_corpus(folder: Path) -> None:
    """Write documents of random words: one file for each split, and one for each document."""
    rng = random.Random(5)
    words = "the a cat dog naïve reader 東京 sees finds and loses red blue old house river".split()
    (folder / "many").mkdir(parents=True, exist_ok=True)
    for name, count in {"train": 16, "valid": 9, "test": 6}.items():
        texts = [" ".join(rng.choices(words, k=rng.randint(3, 60))) for _ in range(count)]
        (folder / f"{name}.txt").write_text("\n\n".join(texts), encoding="utf-8")
        for number, text in enumerate(texts):
            (folder / "many" / f"{name}-{number}.txt").write_text(text, encoding="utf-8")


def check_out(revision: str, folder: Path) -> Path:
    """Copy a revision's files, or those of the working tree, below `folder`; return the copy."""
    code = folder / "source"
    code.mkdir(parents=True)
    if revision in (".", "worktree"):
        for name in git("ls-files", "-coz", "--exclude-standard").split("\0"):
            if (ROOT / name).is_file():
                (code / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, code / name)
    else:
        git("archive", "-o", str(folder / "source.tar"), revision)
        with tarfile.open(folder / "source.tar") as archive:
            archive.extractall(code, filter="data")
    # Remove an editable install from sys.path: Hydra searches all of it for plug-ins.
    (folder / "sitecustomize.py").write_text(
        f"import os, sys\nown = {str(code)!r}\nsys.path[:] = [path for path in sys.path "
        "if path == own or not os.path.isfile(f'{path}/lmft/__init__.py')]\n"
    )
    ask = [sys.executable, "-c", "import lmft; print(lmft.__file__)"]
    asked = subprocess.run(
        ask, cwd=folder, env=environment(code), stdout=subprocess.PIPE, text=True
    )
    imported = asked.stdout.strip()
    if imported != str(code / "lmft" / "__init__.py"):
        raise SystemExit(f"{revision} would run {imported or 'nothing'}, not {code}")
    print(f"{revision} runs {imported}", file=sys.stderr)
    return code


def git(*words: str) -> str:
    """Return the output of a git command in this repository."""
    command = ["git", "-C", str(ROOT), *words]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def read_all(folder: Path, untouched: bool = False) -> dict[str, bytes]:
    """Return what is compared of a folder, by file; if `untouched`, measured values as well."""
    measured = {} if untouched else MEASURED
    contents = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if not is_one_of(name, EXCLUDED_FILES):
            content = path.read_bytes()
            for pattern in (glob for glob in measured if fnmatch(name, glob)):
                content = re.sub(measured[pattern], b"", content)
            for pattern in (glob for glob in QUERIES if fnmatch(name, glob)):
                with closing(sqlite3.connect(path)) as database:
                    content = "\n".join(map(str, database.execute(QUERIES[pattern]))).encode()
            if fnmatch(name, DECIMALS):
                content = b"\n".join(sorted(re.findall(rb"\d+\.\d+", content)))
            if path.name == FACTS:
                facts = {**json.loads(content), "tags": None}
                params = facts.get("params", {}).items()
                facts["params"] = {k: v for k, v in params if not k.startswith("tracker.")}
                content = json.dumps(facts, indent=1, sort_keys=True).encode()
            contents[name] = content
    return contents


def is_one_of(name: str, patterns: Iterable[str]) -> bool:
    """Return whether a file's name matches one of the patterns."""
    return any(fnmatch(name, pattern) for pattern in patterns)


@dataclass
class Row:
    """One comparison, as a line of the table."""

    name: str
    seconds: str
    files: int
    cells: list[str]
    difference: str = ""  # the first one


def compare(name: str, old: dict[str, bytes], new: dict[str, bytes], seconds: str = "") -> Row:
    """Compare the files of two folders."""
    left = sorted(old.keys() | new.keys())
    row = Row(name, seconds, len(left), [])
    for patterns in COLUMNS.values():
        own = [file for file in left if is_one_of(file, patterns)]
        left = [file for file in left if file not in own]
        differing = [file for file in own if old.get(file) != new.get(file)]
        row.cells.append("DIFFERS" if differing else "same" if own else "none")
        if differing and not row.difference:
            first = describe_difference(old.get(differing[0]), new.get(differing[0]))
            row.difference = f"{name}: {differing[0]}: {first}"
    return row


def describe_difference(old: bytes | None, new: bytes | None) -> str:
    """Return where two files first differ."""
    if old is None or new is None:
        return f"only {'NEW' if old is None else 'OLD'} has it"
    pairs = enumerate(zip(old, new, strict=False))
    at = next((index for index, (a, b) in pairs if a != b), min(len(old), len(new)))
    if b"\0" in old:
        return f"byte {at:,} of {len(old):,}"
    texts = [side[max(0, at - 60) : at + 30].decode(errors="replace") for side in (old, new)]
    return f"byte {at:,}: OLD {texts[0]!r}, NEW {texts[1]!r}"


def compare_sides(old: Side, new: Side, name: str) -> list[Row]:
    """Return all rows of a configuration."""
    begun, own = old.outputs / name, new.outputs / name
    rows = []
    try:
        seconds = " / ".join(f"{side.make(name):.0f}" for side in (old, new))
        expected = read_all(begun / "whole")
        rows.append(compare(name, expected, read_all(own / "whole"), seconds))
        if KILLED in CONFIGURATIONS[name]:
            resumed = new.resume(name, own / "killed", "resumed")
            rows.append(compare(f"{name}: killed under NEW, resumed by NEW", expected, resumed))
            resumed = new.resume(name, begun / "killed", "resumed-old")
            rows.append(compare(f"{name}: killed under OLD, resumed by NEW", expected, resumed))
        repeated = new.resume(name, begun / "whole", "repeated")
        expected = read_all(begun / "whole", untouched=True)
        rows.append(compare(f"{name}: finished under OLD, repeated by NEW", expected, repeated))
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        cells = ["DIFFERS"] * len(COLUMNS)
        rows.append(Row(f"{name}: not all was run", "", 0, cells, f"{name}: {error}"))
    print(f"{name} is done", file=sys.stderr)
    return rows


def show(rows: list[Row]) -> None:
    """Print the table, and below it what differs."""
    head = ["configuration", "files compared", *COLUMNS, "seconds old / new"]
    lines = [[row.name, str(row.files), *row.cells, row.seconds] for row in rows]
    for line in (head, ["---"] * len(head), *lines):
        print(f"| {' | '.join(line)} |")
    print("", *(f"- {row.difference}" for row in rows if row.difference), "", sep="\n")


def main() -> int:
    """Compare two commits; return the exit code."""
    known = [name for name in CONFIGURATIONS if name != "pretrained" or STORIES.is_dir()]
    parser = argparse.ArgumentParser(description="Prove that a refactoring changed no number.")
    parser.add_argument("old", help="a git revision")
    parser.add_argument("new", help="a git revision, or . for the files as they are")
    parser.add_argument("--only", nargs="+", choices=known, default=known, metavar="NAME")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where OLD's outputs stay")
    given = parser.parse_args()
    started, folder = time.monotonic(), Path(tempfile.mkdtemp(prefix="compare-")).resolve()
    commit = git("rev-parse", "--verify", f"{given.old}^{{commit}}").strip()
    kept = given.keep.absolute() / commit if given.keep else folder / "old" / "outputs"
    old = Side(check_out(commit, folder / "old"), kept)
    new = Side(check_out(given.new, folder / "new"), folder / "new" / "outputs")
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        results = list(pool.map(lambda name: compare_sides(old, new, name), given.only))
    finally:
        pool.shutdown(cancel_futures=True)
    rows = [row for result in results for row in result]
    show(rows)
    differing = sum(bool(row.difference) for row in rows)
    if not differing:
        shutil.rmtree(folder)
    print(
        f"{given.old} and {given.new}: {differing} of {len(rows)} rows DIFFER, "
        f"{sum(row.files for row in rows):,} files compared, {time.monotonic() - started:.0f} s"
        + (f"; the outputs are in {folder}" if differing else "")
        + ("" if STORIES.is_dir() else f"; without pretrained: {STORIES} is not there")
    )
    return int(bool(differing))


if __name__ == "__main__":
    sys.exit(main())
