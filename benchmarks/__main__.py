"""Compare lmft's speed and memory with transformers.Trainer's, and write one table.

Rows already measured at this commit, on this machine and with these package versions are skipped,
so an interrupted benchmark resumes when it is started again. Run it on an otherwise idle machine.

    make bench                                     all rows, under two hours
    BENCH=quick make bench                         training on blocks of 128, half an hour
    python -m benchmarks --list                    list the rows by name
    python -m benchmarks --rows sweep start        only these rows; bf16 rows may be named
                                                   even where the hardware emulates bf16

It needs the folder of real data (LMFT_SHARED, default ../shared) and pip install -e '.[bench]'.
MiniLM and SmolLM2 are read from LMFT_MODELS (default models). The table is written to
bench/bench.md, all measurements to bench/bench.json.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from benchmarks.machine import ROOT, native_bf16
from benchmarks.rows import Row, all_rows
from benchmarks.store import Store
from benchmarks.table import as_markdown, show

FOLDER = ROOT / "bench"


def main() -> None:
    """Measure the selected rows that are not stored yet, and write the table after each row."""
    ask = read_arguments()
    usual = all_rows("bf16" if native_bf16() else "fp32")
    known = all_rows("bf16") | usual
    order = list(known)
    if ask.list:
        for row in known.values():
            print(f"{row.name:30}{'' if row.name in usual else '(emulated here) '}{row.what}")
        return
    os.environ["HF_HUB_OFFLINE"] = "1"
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    store = Store(FOLDER / "bench.json")
    for row in choose(ask, usual, known):
        if not Path(row.needs).is_dir():
            console.print(f"{row.name}: skipped because {row.needs} does not exist.")
        elif ask.again or not store.has(row.name, ask.pairs):
            measure(row, ask.pairs, store, console)
            (FOLDER / "bench.md").write_text(as_markdown(store, order))
    show(store, order, console)


def choose(ask: argparse.Namespace, usual: dict[str, Row], known: dict[str, Row]) -> list[Row]:
    """Return the rows to measure."""
    if ask.rows:
        unknown = ", ".join(name for name in ask.rows if name not in known)
        if unknown:
            raise SystemExit(f"Unknown row: {unknown}. Use --list to see the available rows.")
        return [known[name] for name in ask.rows]
    return [row for row in usual.values() if row.quick or not ask.quick]


def measure(row: Row, pairs: int, store: Store, console: Console) -> None:
    """Measure one row and store it; print the error if it fails."""
    console.print(f"{row.name}: {row.what}")
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        try:
            store.put(row.name, pairs, row.measure(pairs, Path(folder)))
        except RuntimeError as error:
            console.print(f"{row.name} failed: {error}", style="red", markup=False)
    console.print(f"  {time.monotonic() - started:.0f} s", style="dim")


def read_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rows", nargs="+", metavar="NAME", help="measure only these rows")
    parser.add_argument("--pairs", type=int, help="measurements per side (5; 3 with --quick)")
    parser.add_argument(
        "--quick", action="store_true", help="measure only training on blocks of 128"
    )
    parser.add_argument("--again", action="store_true", help="measure stored rows again")
    parser.add_argument("--list", action="store_true", help="list the rows and exit")
    ask = parser.parse_args()
    ask.pairs = ask.pairs or (3 if ask.quick else 5)
    return ask


if __name__ == "__main__":
    main()
