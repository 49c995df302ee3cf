"""The floors of the building: a room may import only from the floors below its own."""

import ast
from pathlib import Path

FLOORS = [
    {
        "errors",
        "identity",
        "metrics",
        "statistics",
        "ranks",
        "plain",
        "allocator",
    },
    {"ahead", "faults", "hydra_guard", "secrets", "screen", "markdown"},
    {"files", "hub", "lock", "seal", "signals", "team", "tensors", "guard", "provenance"},
    {"cache", "config", "checkpoint", "record"},
    {"objective", "hardware", "optimizer", "tracker", "study"},
    {"arithmetic", "products", "shares", "weights"},
    {"dataset", "tokenizer", "head", "kernels", "model", "history", "terminal"},
    {"blocks", "loss", "network", "runs"},
    {"gradients"},
    {"batches", "trainer", "answer"},
    {"evaluation", "samples"},
    {"spans"},
    {"result", "compose"},
    {"materials", "archive", "comparison"},
    {"assessment", "card", "outcome", "report"},
    {"engine"},
    {"session", "sweep"},
    {"fitting", "nonfinite"},
    {"finetune"},
    {"train", "evaluate", "generate", "list_runs", "clean", "compare", "verify", "profile", "crew"},
    {"sync"},
    {"help", "mistakes"},
    {"console"},
    {"processes"},
    {"launch", "plan"},
    {"cli"},
    {"__main__"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
ALLOWED = {  # heavy libraries, and the only rooms that may import them
    "mlflow": {"tracker"},
    "hydra": {"cli", "compose", "config", "launch", "mistakes", "sweep"},
}
LMFT = Path(__file__).parents[1] / "lmft"


def rooms():
    for path in sorted(LMFT.rglob("*.py")):
        room = path.relative_to(LMFT).parts[0].removesuffix(".py")
        if room != "__init__":
            yield room, walk(ast.parse(path.read_text()))


def walk(tree):
    """All nodes, but for what is imported for type checkers alone."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            yield node
            yield from walk(node)


def modules(nodes):
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            yield node.module or ""
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_every_arrow_points_down():
    found = {(room, module.split(".")[1]) for room, nodes in rooms()
             for module in modules(nodes) if module.startswith("lmft.")}  # fmt: skip
    assert {room for room, _ in rooms()} == FLOOR.keys()
    upward = [(room, used) for room, used in found if room != used and FLOOR[used] >= FLOOR[room]]
    assert not upward


def test_heavy_libraries_stay_in_their_rooms():
    for room, nodes in rooms():
        for module in modules(nodes):
            library = module.split(".")[0]
            assert room in ALLOWED.get(library, {room}), f"{room} imports {library}"
