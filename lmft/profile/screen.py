"""What `lmft profile` shows: the step as a whole, and its operations."""

import statistics
from collections import defaultdict

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lmft.arithmetic import Limit
from lmft.config import RunConfig
from lmft.materials import Materials
from lmft.profile.operations import Operation
from lmft.trainer import Step

SHOWN = 15  # operations


def show_speed(
    console: Console,
    label: str,
    config: RunConfig,
    materials: Materials,
    measured: list[Step],
    limit: Limit,
    memory: int,
) -> None:
    """What was measured, and how long a step took; `memory` in bytes."""
    weights = sum(weight.numel() for weight in materials.network.model.parameters())
    hardware, size = materials.hardware, config.trainer.batch_size
    rest = f", {weights:,} weights, {hardware.describe()}"
    console.print(Text.assemble((label, "bold"), rest))
    console.print(
        f"a step: {size} blocks of {config.dataset.block_size} tokens, "
        f"{min(size, hardware.micro_batch_size)} at once"
    )
    times = sorted(1000 * step.seconds for step in measured)
    speed = statistics.median(step.tokens / step.seconds for step in measured)
    share = statistics.median(step.share_of_limit for step in measured)
    console.print(
        f"time: median {statistics.median(times):,.1f} ms, {times[0]:,.1f} to {times[-1]:,.1f} "
        f"over {len(times)} steps"
    )
    console.print(
        f"speed: {speed:,.0f} tokens/s, {100 * share:.0f} % of the limit "
        f"({limit.rate / 1e9:,.0f} GFLOP/s measured in matrix products)",
        soft_wrap=True,
    )
    console.print(f"peak memory: {memory / 2**20:,.0f} MiB")


def show_operations(console: Console, operations: list[Operation], steps: int) -> None:
    """The operations that took longest themselves, over so many steps."""
    whole = sum(one.seconds for one in operations)
    calls: dict[tuple[str, str], list[float]] = defaultdict(list)
    for one in operations:
        calls[one.name.removeprefix("aten::"), one.family].append(one.seconds)
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("operation", overflow="fold")
    table.add_column("family", no_wrap=True)
    for column in ("calls a step", "ms a step", "share"):
        table.add_column(column, justify="right", no_wrap=True)
    for (name, family), seconds in sorted(calls.items(), key=lambda item: -sum(item[1]))[:SHOWN]:
        table.add_row(
            name,
            family,
            f"{len(seconds) / steps:,.0f}",
            f"{1000 * sum(seconds) / steps:,.2f}",
            f"{100 * sum(seconds) / whole:.1f} %",
        )
    console.print(table)
