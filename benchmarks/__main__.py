"""Measure lmft's speed and memory beside what a user would otherwise run, and write one table.

Rows already measured at this commit, on this machine, with these versions are kept: a bench that
was cut short goes on when it is started again. Run it on a machine that does nothing else.

    make bench                                     every row, under two hours
    BENCH=quick make bench                         training on blocks of 128, a quarter of an hour
    python -m benchmarks --list                    the rows, by name
    python -m benchmarks --rows sweep start        only these; those of --list that are in bf16
                                                   can be asked for where it is emulated, too

It needs the folder of real data (LMFT_SHARED, default ../shared) and pip install -e '.[bench]';
MiniLM and SmolLM2 are looked for in LMFT_MODELS (default models). The table goes to
bench/bench.md, all that was measured to bench/bench.json.
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
    """Measure what is asked for and not known yet; after each row the table is written."""
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
            console.print(f"{row.name}: skipped, there is no {row.needs}.")
        elif ask.again or not store.has(row.name, ask.pairs):
            measure(row, ask.pairs, store, console)
            (FOLDER / "bench.md").write_text(as_markdown(store, order))
    show(store, order, console)


def choose(ask: argparse.Namespace, usual: dict[str, Row], known: dict[str, Row]) -> list[Row]:
    """The rows to measure."""
    if ask.rows:
        unknown = ", ".join(name for name in ask.rows if name not in known)
        if unknown:
            raise SystemExit(f"There is no row {unknown}; --list shows those there are.")
        return [known[name] for name in ask.rows]
    return [row for row in usual.values() if row.quick or not ask.quick]


def measure(row: Row, pairs: int, store: Store, console: Console) -> None:
    """Measure one row and keep it; one that fails is told of, and the others go on."""
    console.print(f"{row.name}: {row.what}")
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        try:
            store.put(row.name, pairs, row.measure(pairs, Path(folder)))
        except RuntimeError as error:
            console.print(f"{row.name} failed: {error}", style="red", markup=False)
    console.print(f"  {time.monotonic() - started:.0f} s", style="dim")


def read_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rows", nargs="+", metavar="NAME", help="only these rows")
    parser.add_argument("--pairs", type=int, help="measurements of each side (5; 3 with --quick)")
    parser.add_argument("--quick", action="store_true", help="training on blocks of 128 only")
    parser.add_argument("--again", action="store_true", help="measure also what is known")
    parser.add_argument("--list", action="store_true", help="show the rows, and measure nothing")
    ask = parser.parse_args()
    ask.pairs = ask.pairs or (3 if ask.quick else 5)
    return ask


if __name__ == "__main__":
    main()
