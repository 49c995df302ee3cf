"""What `lmft profile` prints: speed, shares of time by family and phase, and advice."""

import statistics
from collections import defaultdict

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lmft.analysis.profiling.measure import WATCHED
from lmft.analysis.profiling.operators import (
    PYTHON,
    Operation,
    shares,
)
from lmft.config.schema import Precision, RunConfig
from lmft.hardware.device import Hardware, has_bf16
from lmft.hardware.mfu import Limit
from lmft.output.terminal import Screen
from lmft.trainer.components import Components
from lmft.trainer.step import Step

SMALLEST = 0.005  # shares below it are not named

ADVICE = 2  # sentences at most


def tell_shares(found: dict[str, float]) -> str:
    """Shares in words, as in `attention 31 %, loss 12 %`."""
    named = [f"{name} {share:.0%}" for name, share in found.items() if share >= SMALLEST]
    return ", ".join(named).replace("%", " %")


def advise(
    families: dict[str, float], idle: float, config: RunConfig, hardware: Hardware
) -> list[str]:
    """A sentence or two on the largest shares that a knob can change.

    Args:
        families: the share of each.
        idle: the share of a step in which an accelerator had nothing to do; 0 without one.
        config: the run.
        hardware: what it came to.
    """
    found = [*_of_numbers(families, hardware), *_of_size(families, idle, config, hardware)]
    found += _of_passes(families, config, hardware)
    said = [sentence for _, sentence in sorted(found, reverse=True)[:ADVICE]]
    products = _percent(families.get("matrix products", 0.0))
    return said or [f"No one knob stands out; matrix products alone are {products} of the time."]


def _of_numbers(families: dict[str, float], hardware: Hardware) -> list[tuple[float, str]]:
    """On the number format of matrix products."""
    share = families.get("matrix products", 0.0)
    native, precision = has_bf16(hardware.device), hardware.precision
    if share < 0.3:
        return []
    text = f"Matrix products are {_percent(share)} of the time, in {precision.value}; this device "
    if native and precision is Precision.fp32:
        return [(share, text + "computes bf16 natively: hardware.precision=bf16.")]
    if precision is Precision.bf16 and not native:
        return [(share, text + "only emulates that: hardware.precision=fp32.")]
    return []


def _of_size(
    families: dict[str, float], idle: float, config: RunConfig, hardware: Hardware
) -> list[tuple[float, str]]:
    """On costs that do not grow with the batch."""
    found = []
    size, micro = config.trainer.batch_size, hardware.micro_batch_size
    waiting = max(idle, families.get(PYTHON, 0.0))
    if waiting > 0.15:
        knob = f"hardware.micro_batch_size={size}" if micro < size else "a larger batch"
        text = f"{_percent(waiting)} of the time no operation runs, as each is so short: {knob}"
        found.append((waiting, f"{text} gives it more to do at once."))
    optimizer = families.get("optimizer and clipping", 0.0)
    if optimizer > 0.15:
        text = f"The optimizer and clipping take {_percent(optimizer)} of the time, whatever the "
        text += f"size of the batch: a trainer.batch_size above {size} would spread it over more "
        found.append((optimizer, text + "tokens, but it changes what is learned."))
    return found


def _of_passes(
    families: dict[str, float], config: RunConfig, hardware: Hardware
) -> list[tuple[float, str]]:
    """On passes over memory."""
    found = []
    dropout, attention = (families.get(name, 0.0) for name in ("dropout", "attention"))
    if dropout > 0.1:
        text = f"Dropout takes {_percent(dropout)} of the time: model.dropout=0 would spare it, "
        found.append((dropout, text + "but it changes what is learned."))
    if attention > 0.3:
        text = f"Attention is {_percent(attention)} of the time; what it costs a token grows with "
        found.append((attention, f"{text}dataset.block_size={config.dataset.block_size}."))
    passes = families.get("element-wise passes", 0.0) + families.get("norms", 0.0)
    if passes > 0.2 and not hardware.compile:
        text = f"Element-wise passes and norms are {_percent(passes)} of the time: "
        text += "hardware.compile=true makes fewer of them, after a slower start."
        found.append((passes, text))
    copies = families.get("copies and casts", 0.0)
    if copies > 0.2 and hardware.micro_batch_size < config.trainer.batch_size:
        text = f"Copies and casts are {_percent(copies)} of the time, those of the weights once "
        text += "for each micro-batch: "
        text += f"hardware.micro_batch_size={config.trainer.batch_size} makes them once a step."
        found.append((copies, text))
    return found


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


SHOWN = 15  # operations


def show_speed(
    console: Console,
    label: str,
    config: RunConfig,
    components: Components,
    measured: list[Step],
    limit: Limit,
    memory: int,
) -> None:
    """What was measured, and how long a step took; `memory` in bytes."""
    weights = sum(weight.numel() for weight in components.network.model.parameters())
    hardware, size = components.hardware, config.trainer.batch_size
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


def report(
    console: Screen,
    operations: list[Operation],
    measured: list[Step],
    config: RunConfig,
    components: Components,
) -> None:
    """Where the time goes: in words, by operation, and what could be done about it."""
    families, phases = shares(operations, "family"), shares(operations, "phase")
    idle = 0.0
    if components.hardware.device.type == "cuda":
        busy = sum(one.seconds for one in operations) / WATCHED
        idle = max(0.0, 1 - busy / statistics.median(step.seconds for step in measured))
        console.print(f"The device has nothing to do for {100 * idle:.0f} % of a step.")
    console.print("Where a step's time goes", style="bold")
    console.print(f"by family: {tell_shares(families)}", soft_wrap=True)
    console.print(f"by phase: {tell_shares(phases)}", soft_wrap=True)
    show_operations(console, operations, WATCHED)
    for sentence in advise(families, idle, config, components.hardware):
        console.print(sentence, style="green", soft_wrap=True)
