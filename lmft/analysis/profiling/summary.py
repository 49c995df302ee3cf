"""Print what `lmft profile` measured: speed, time by family and phase, and advice."""

import statistics
from collections import defaultdict

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lmft.analysis.profiling.measure import PROFILED, Measurement
from lmft.analysis.profiling.operators import PYTHON, OperatorCall, time_shares
from lmft.config.schema import RunConfig
from lmft.config.training_knobs import Precision
from lmft.hardware.device import Hardware, has_bf16
from lmft.output.terminal import Screen, print_sentence
from lmft.runs.run_id import model_label
from lmft.trainer.training import Training

SMALLEST_SHARE = 0.005  # that is shown
MOST_ADVICE = 2  # sentences
Advice = tuple[float, str]  # the share of time that it is about, and a sentence


def format_shares(shares: dict[str, float]) -> str:
    """Return shares as text, as in `attention 31 %, loss 12 %`."""
    shown = [f"{name} {share:.0%}" for name, share in shares.items() if share >= SMALLEST_SHARE]
    return ", ".join(shown).replace("%", " %")


def advise(
    families: dict[str, float], idle: float, config: RunConfig, hardware: Hardware
) -> list[str]:
    """Return one or two sentences on the largest shares that a knob can change.

    Args:
        families: the share of each.
        idle: the share of a step in which an accelerator was idle; 0 without one.
        config: the run.
        hardware: that the run uses.
    """
    advice = [
        *_precision_advice(families, hardware),
        *_fixed_cost_advice(families, idle, config, hardware),
        *_memory_bound_advice(families, config, hardware),
    ]
    sentences = [sentence for _, sentence in sorted(advice, reverse=True)[:MOST_ADVICE]]
    products = _percent(families.get("matrix products", 0.0))
    return sentences or [f"No knob stands out; matrix products alone are {products} of the time."]


def _precision_advice(families: dict[str, float], hardware: Hardware) -> list[Advice]:
    """Advise on the precision of matrix products."""
    share = families.get("matrix products", 0.0)
    native, precision = has_bf16(hardware.device), hardware.precision
    if share < 0.3:
        return []
    text = f"Matrix products are {_percent(share)} of the time, in {precision.value}; this device "
    if native and precision is Precision.fp32:
        return [(share, text + "computes bf16 natively: hardware.precision=bf16.")]
    if precision is Precision.bf16 and not native:
        return [(share, text + "only emulates bf16: hardware.precision=fp32.")]
    return []


def _fixed_cost_advice(
    families: dict[str, float], idle: float, config: RunConfig, hardware: Hardware
) -> list[Advice]:
    """Advise on costs that don't grow with the batch."""
    advice = []
    size, micro = config.trainer.batch_size, hardware.micro_batch_size
    idle = max(idle, families.get(PYTHON, 0.0))
    if idle > 0.15:
        knob = f"hardware.micro_batch_size={size}" if micro < size else "a larger batch"
        text = f"No operator runs for {_percent(idle)} of the time, as each is so short: {knob}"
        advice.append((idle, f"{text} makes them longer."))
    optimizer = families.get("optimizer and clipping", 0.0)
    if optimizer > 0.15:
        text = f"The optimizer and clipping take {_percent(optimizer)} of the time, whatever the "
        text += f"size of the batch: a trainer.batch_size above {size} would spread it over more "
        advice.append((optimizer, text + "tokens, but changes the results."))
    return advice


def _memory_bound_advice(
    families: dict[str, float], config: RunConfig, hardware: Hardware
) -> list[Advice]:
    """Advise on operators whose time is bound by memory bandwidth."""
    advice = []
    dropout, attention = (families.get(name, 0.0) for name in ("dropout", "attention"))
    if dropout > 0.1:
        text = f"Dropout takes {_percent(dropout)} of the time: model.dropout=0 would avoid it, "
        advice.append((dropout, text + "but changes the results."))
    if attention > 0.3:
        text = f"Attention is {_percent(attention)} of the time; its cost per token grows with "
        advice.append((attention, f"{text}dataset.block_size={config.dataset.block_size}."))
    element_wise = families.get("element-wise operators", 0.0) + families.get("norms", 0.0)
    if element_wise > 0.2 and not hardware.compile:
        text = f"Element-wise operators and norms are {_percent(element_wise)} of the time: "
        text += "hardware.compile=true fuses them, after a slower start."
        advice.append((element_wise, text))
    copies = families.get("copies and casts", 0.0)
    if copies > 0.2 and hardware.micro_batch_size < config.trainer.batch_size:
        text = f"Copies and casts are {_percent(copies)} of the time, those of the weights once "
        text += "for each micro-batch: "
        text += f"hardware.micro_batch_size={config.trainer.batch_size} makes them once a step."
        advice.append((copies, text))
    return advice


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


MOST_ROWS = 15  # of the table of operators


def show_speed(console: Console, training: Training, measured: Measurement) -> None:
    """Print the setup, the time of a step, the speed and the peak memory."""
    steps = measured.steps
    config, components, flops = training.config, training.components, training.flops
    label = model_label(config.model)
    weights = sum(weight.numel() for weight in components.network.model.parameters())
    hardware, size = components.hardware, config.trainer.batch_size
    console.print(Text.assemble((label, "bold"), f", {weights:,} weights, {hardware.describe()}"))
    console.print(
        f"a step: {size} blocks of {config.dataset.block_size} tokens, "
        f"{min(size, hardware.micro_batch_size)} at once"
    )
    times = sorted(1000 * step.seconds for step in steps)
    speed = statistics.median(step.tokens / step.seconds for step in steps)
    mfu = statistics.median(step.share_of_limit for step in steps)
    console.print(
        f"time: median {statistics.median(times):,.1f} ms, {times[0]:,.1f} to {times[-1]:,.1f} "
        f"over {len(times)} steps"
    )
    speeds = f"speed: {speed:,.0f} tokens/s, {100 * mfu:.0f} % MFU "
    speeds += f"({flops.peak / 1e9:,.0f} GFLOP/s peak measured in matrix products)"
    print_sentence(Text(speeds), console)
    console.print(f"peak memory: {describe_memory(measured, hardware)}")


def describe_memory(measured: Measurement, hardware: Hardware) -> str:
    """Return the peak memory as text; of an accelerator and of the host, if there is one."""
    host = f"{measured.host_memory / 2**20:,.0f} MiB"
    if hardware.device.type != "cuda":
        return host
    return f"{measured.memory / 2**20:,.0f} MiB of tensors on the GPU, {host} of the host"


def show_operators(console: Console, calls: list[OperatorCall], steps: int) -> None:
    """Print the operators that took most time themselves, per step."""
    total = sum(call.seconds for call in calls)
    by_operator: dict[tuple[str, str], list[float]] = defaultdict(list)
    for call in calls:
        by_operator[call.name.removeprefix("aten::"), call.family].append(call.seconds)
    slowest = sorted(by_operator.items(), key=lambda item: -sum(item[1]))[:MOST_ROWS]
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("operator", overflow="fold")
    table.add_column("family", no_wrap=True)
    for column in ("calls a step", "ms a step", "share"):
        table.add_column(column, justify="right", no_wrap=True)
    for (name, family), seconds in slowest:
        table.add_row(
            name,
            family,
            f"{len(seconds) / steps:,.0f}",
            f"{1000 * sum(seconds) / steps:,.2f}",
            f"{100 * sum(seconds) / total:.1f} %",
        )
    console.print(table)


def report(console: Screen, training: Training, measured: Measurement) -> None:
    """Print shares of time, the slowest operators, and advice."""
    hardware, calls, steps = training.components.hardware, measured.calls, measured.steps
    families, phases = time_shares(calls, "family"), time_shares(calls, "phase")
    idle = 0.0
    if hardware.device.type == "cuda":
        busy = sum(call.seconds for call in calls) / PROFILED
        idle = max(0.0, 1 - busy / statistics.median(step.seconds for step in steps))
        graph = "as one CUDA graph" if training.graphs else "one after the other"
        console.print(
            f"The device is idle for {100 * idle:.0f} % of a step, whose {measured.launches:,.0f} "
            f"kernels are launched {graph}."
        )
    console.print("Where a step's time goes", style="bold")
    print_sentence(Text(f"by family: {format_shares(families)}"), console)
    print_sentence(Text(f"by phase: {format_shares(phases)}"), console)
    show_operators(console, calls, PROFILED)
    for sentence in advise(families, idle, training.config, hardware):
        print_sentence(Text(sentence, "green"), console)
