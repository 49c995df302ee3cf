"""Read from torch's profiler which operators ran in a step: their family, phase and own time."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from lmft.trainer.step import BATCH

STEP = "lmft step"  # an event of our own
PYTHON = "outside operators"  # time that no torch operator takes: mostly Python

# The path of a call is its phase, the calls around it and itself. A call belongs to the first
# family whose pattern matches its path.
FAMILIES = {
    PYTHON: rf"^{PYTHON}",
    "optimizer and clipping": r"^(clipping|optimizer) ",
    "dropout": r"Dropout|dropout|aten::(bernoulli_?|rand\w*)$",
    "attention": r"Attention|attention|ScaledDotProduct",
    "matrix products": r"aten::(_?\w*mm_?|mv|addmv|dot|linear|\w*convolution\w*)$|mkldnn_linear",
    "copies and casts": (
        r"aten::(copy_|_?to(_copy)?|clone|contiguous|cat|stack|repeat\w*|constant_pad_nd)$"
    ),
    "loss": r"CrossEntropy|cross_entropy|nll_loss|NllLoss|log_softmax|LogSoftmax",
    "norms": r"LayerNorm|layer_norm|rms_norm|RmsNorm|RMSNorm",
    "embeddings": r"[Ee]mbedding|aten::(_?index\w*|gather|scatter\w*)$",
    "compiled": r"CompiledFxGraph|triton|cpp_fused|Torch-Compiled|CompiledFunction",
    "element-wise operators": (
        r"aten::_?(foreach_)?(add|sub|rsub|mul|div|pow|exp|log|sqrt|rsqrt|neg|abs|sin|cos|tanh|erf"
        r"|sigmoid|silu|gelu|relu|threshold|softmax|sum|mean|var|std|max|min|amax|amin|any|all"
        r"|masked_fill|where|eq|ne|lt|le|gt|ge|bitwise_\w+|logical_\w+|fill|zero|zeros|ones|full"
        r"|triu|tril|cumsum|clamp\w*|lerp|addcmul|addcdiv|reciprocal|glu)(_backward|_data)?_?$"
    ),
    "other": "",
}
PHASES = ("batch", "forward", "loss", "backward", "clipping", "optimizer", PYTHON)
LOSS = re.compile(FAMILIES["loss"])


@dataclass(frozen=True)
class OperatorCall:
    """One call of an operator, without the calls inside it."""

    name: str
    family: str  # one of FAMILIES
    phase: str  # one of PHASES
    seconds: float  # on the accelerator, if there is one, else on the CPU


def find_operator_calls(events: Iterable[Any], on_device: bool) -> list[OperatorCall]:
    """Return all calls within the profiled steps.

    Args:
        events: torch.autograd.profiler_util.FunctionEvent, of all threads.
        on_device: whether to take the time on an accelerator.
    """
    cpu_events = [event for event in events if event.device_type.name == "CPU"]
    steps = [event for event in cpu_events if event.name == STEP]
    outermost = [event for event in cpu_events if event.cpu_parent is None and event.name != STEP]
    calls = []
    for step in steps:
        first, last = step.time_range.start, step.time_range.end
        # With an accelerator, the backward pass runs in a thread of its own.
        other_threads = [event for event in outermost if first <= event.time_range.start < last]
        in_order = sorted(
            [*step.cpu_children, *other_threads], key=lambda event: event.time_range.start
        )
        calls.append(_call(PYTHON, step, PYTHON, PYTHON, on_device))
        names = [event.name for event in in_order]
        for event, phase in zip(in_order, find_phases(names), strict=True):
            calls += _walk(event, phase, phase, on_device)
    return calls


def find_phases(names: list[str]) -> list[str]:
    """Return the phase of each outermost call of a step, from their names in order."""
    backward = [name.startswith("autograd::engine") for name in names]
    last = max((number for number, is_backward in enumerate(backward) if is_backward), default=-1)
    phases: list[str] = []
    for number, name in enumerate(names):
        previous = phases[-1] if phases else "batch"
        if name == BATCH:
            phase = "batch"
        elif backward[number]:
            phase = "backward"
        elif name.startswith("Optimizer.") or previous == "optimizer":
            phase = "optimizer"
        elif number > last >= 0:
            phase = "clipping"
        elif LOSS.search(name) or previous == "loss":
            phase = "loss"
        else:  # also between the backward passes of two micro-batches
            phase = "forward"
        phases.append(phase)
    return phases


def find_family(path: str) -> str:
    """Return the family of the call with this path."""
    return next(family for family, pattern in FAMILIES.items() if re.search(pattern, path))


def time_shares(calls: list[OperatorCall], kind: str) -> dict[str, float]:
    """Return the share of each family or phase in all time, the largest first; they add up to 1.

    Args:
        calls: of whole steps.
        kind: `family` or `phase`.
    """
    seconds: Counter[str] = Counter()
    for call in calls:
        seconds[getattr(call, kind)] += call.seconds  # type: ignore[assignment]
    total = sum(seconds.values())
    return {name: spent / total for name, spent in seconds.most_common()} if total else {}


def _walk(event: Any, phase: str, parent_path: str, on_device: bool) -> Iterator[OperatorCall]:
    path = f"{parent_path} {event.name}"
    yield _call(event.name, event, phase, path, on_device)
    for child in event.cpu_children:
        yield from _walk(child, phase, path, on_device)


def _call(name: str, event: Any, phase: str, path: str, on_device: bool) -> OperatorCall:
    own = event.self_device_time_total if on_device else event.self_cpu_time_total
    return OperatorCall(name, find_family(path), phase, own / 1e6)
