"""Why some runs are not ranked together, and the way out."""

from lmft.comparison import Comparison, letters
from lmft.comparison.runs import Run

HASHED = ("corpus", "tokenizer")  # conditions of which only a digest is known


def tell_apart(comparison: Comparison) -> list[str]:
    """Why not all runs are ranked together, and the way out."""
    sets = [ranking.runs for ranking in comparison.rankings]
    if len(sets) < 2:
        return []
    firsts = [some[0].conditions for some in sets]
    differing = [name for name in firsts[0] if len({repr(c[name]) for c in firsts}) > 1]
    told = [
        f"{name_sets(sets)}: their losses were measured under different conditions "
        f"({', '.join(differing)})."
    ]
    for name in differing:
        values = [f"{condition(some[0], name)} for {letters(some)}" for some in sets]
        told.append(f"{name} is {'; '.join(values)}.")
    if len({c["objective"]["_target_"] for c in firsts}) > 1:
        told.append(
            "Causal and masked models are never ranked together: one predicts each token from "
            "those before it, the other hidden tokens from both sides."
        )
    if comparison.bytewise:
        names = [letters(ranking.runs) for ranking in comparison.bytewise]
        told.append(
            f"For {'; '.join(names)} bits per byte stand in, below: they do not depend on "
            "tokenizer, context or stride where every byte is scored."
        )
    elif "tokenizer" in differing and set(differing) <= {"tokenizer", "context", "stride"}:
        told.append(
            "lmft evaluate run=... evaluation.stride=N with N below the context scores all bytes; "
            "then bits per byte compare them."
        )
    elif set(differing) <= {"context", "stride", "max_blocks", "masks", "split"}:
        told.append("lmft evaluate run=... with the same evaluation.* for each scores them alike.")
    return told


def name_sets(sets: list[list[Run]]) -> str:
    """Who is not ranked with whom."""
    names = [letters(some) for some in sets]
    if len(names) > 2:
        return f"{'; '.join(names)} are not ranked together"
    return f"{names[0]} {'are' if len(sets[0]) > 1 else 'is'} not ranked with {names[1]}"


def condition(run: Run, name: str) -> str:
    """A condition's value for a person."""
    value = run.conditions[name]
    if name in HASHED:
        return f"{str(value)[:8]} (digest)"
    if name == "objective":
        rest = [f"{knob}={v}" for knob, v in value.items() if knob != "_target_"]
        return ", ".join([str(value["_target_"]).rpartition(".")[2], *rest])
    return "all" if value is None else repr(value) if isinstance(value, str) else str(value)
