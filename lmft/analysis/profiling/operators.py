"""What torch's profiler saw of some steps, by operation: its family, its phase, its own time."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

STEP, BATCH = "lmft step", "lmft batch"  # marks among the events

PYTHON = "outside of operations"  # of torch: in Python, mostly

# An operation's path is its phase, the operations around it and itself. The first family whose
# pattern is found there has it, so that it has exactly one.
FAMILIES = {
    PYTHON: rf"^{PYTHON}",
    "optimizer and clipping": r"^(clipping|optimizer) ",
    "dropout": r"ThinOut|Dropout|dropout|aten::(bernoulli_?|rand\w*)$",
    "attention": r"Attention|attention|ScaledDotProduct",
    "matrix products": r"aten::(_?\w*mm_?|mv|addmv|dot|linear|\w*convolution\w*)$|mkldnn_linear",
    "copies and casts": r"aten::(copy_|_?to(_copy)?|clone|contiguous|cat|stack|repeat\w*)$",
    "loss": r"CrossEntropy|cross_entropy|nll_loss|NllLoss|log_softmax|LogSoftmax",
    "norms": r"LayerNorm|layer_norm|rms_norm|RmsNorm|RMSNorm",
    "embeddings": r"[Ee]mbedding|aten::(_?index\w*|gather|scatter\w*)$",
    "compiled": r"CompiledFxGraph|triton|cpp_fused|Torch-Compiled|CompiledFunction",
    "element-wise passes": (
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
class Operation:
    """One call, without the calls inside it."""

    name: str
    family: str  # one of FAMILIES
    phase: str  # one of PHASES
    seconds: float  # on the device that computes


def find_operations(events: Iterable[Any], on_device: bool) -> list[Operation]:
    """All operations within the steps that are marked.

    Args:
        events: torch.autograd.profiler_util.FunctionEvent, of all threads.
        on_device: whether an accelerator computes, and its time is meant.
    """
    called = [event for event in events if event.device_type.name == "CPU"]
    steps = [event for event in called if event.name == STEP]
    outermost = [event for event in called if event.cpu_parent is None and event.name != STEP]
    found = []
    for step in steps:
        first, last = step.time_range.start, step.time_range.end
        # An accelerator's backward pass has a thread of its own.
        beside = [event for event in outermost if first <= event.time_range.start < last]
        tops = sorted([*step.cpu_children, *beside], key=lambda event: event.time_range.start)
        found.append(_operation(PYTHON, step, PYTHON, PYTHON, on_device))
        names = [event.name for event in tops]
        for event, phase in zip(tops, find_phases(names), strict=True):
            found += _walk(event, phase, phase, on_device)
    return found


def find_phases(names: list[str]) -> list[str]:
    """The phase of each outermost operation of a step, from their names in order."""
    backward = [name.startswith("autograd::engine") for name in names]
    last = max((number for number, it_is in enumerate(backward) if it_is), default=-1)
    phases: list[str] = []
    for number, name in enumerate(names):
        before = phases[-1] if phases else "batch"
        if name == BATCH:
            phase = "batch"
        elif backward[number]:
            phase = "backward"
        elif name.startswith("Optimizer.") or before == "optimizer":
            phase = "optimizer"
        elif number > last >= 0:
            phase = "clipping"
        elif LOSS.search(name) or before == "loss":
            phase = "loss"
        else:  # also between the backward pass of a micro-batch and the next one's
            phase = "forward"
        phases.append(phase)
    return phases


def family_of(path: str) -> str:
    """The family of an operation with this path."""
    return next(family for family, pattern in FAMILIES.items() if re.search(pattern, path))


def shares(operations: list[Operation], kind: str) -> dict[str, float]:
    """The share of each family or phase in all time, the largest first; they add up to 1.

    Args:
        operations: of whole steps.
        kind: what to tell apart by, `family` or `phase`.
    """
    seconds: Counter[str] = Counter()
    for one in operations:
        seconds[getattr(one, kind)] += one.seconds  # type: ignore[assignment]
    whole = sum(seconds.values())
    return {name: spent / whole for name, spent in seconds.most_common()} if whole else {}


def _walk(event: Any, phase: str, above: str, on_device: bool) -> Iterator[Operation]:
    path = f"{above} {event.name}"
    yield _operation(event.name, event, phase, path, on_device)
    for child in event.cpu_children:
        yield from _walk(child, phase, path, on_device)


def _operation(name: str, event: Any, phase: str, path: str, on_device: bool) -> Operation:
    own = event.self_device_time_total if on_device else event.self_cpu_time_total
    return Operation(name, family_of(path), phase, own / 1e6)
