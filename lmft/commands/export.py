"""`lmft export`: write the weights of a run as one file for other programs."""

from argparse import Namespace
from pathlib import Path

from lmft.commands.words import one_run
from lmft.errors import UserError, writable
from lmft.model.gguf import write_gguf
from lmft.output.sanitize import strip_control
from lmft.output.terminal import readable_size
from lmft.runs.publication import find_weights
from lmft.storage.hub import ADAPTER_CONFIG

SUFFIX = ".gguf"


def main(arguments: Namespace) -> None:
    """Run the command."""
    weights = find_weights(one_run("export", arguments), arguments.tracker_uri)
    if (weights / ADAPTER_CONFIG).is_file():
        raise UserError(f"{weights} is an adapter; lmft merge makes it a model, then export that.")
    model = weights.parent if weights.name == "checkpoint" else weights  # the run, or the folder
    target = choose_file(arguments.out, model)
    with writable("out", target):
        target.parent.mkdir(parents=True, exist_ok=True)
        write_gguf(weights, target, model.name)
    print(strip_control(f"{readable_size(target.stat().st_size)}  {target}", lines=False))


def choose_file(out: str | None, model: Path) -> Path:
    """Return the path of the file to write: `out`, or a file in it, or one beside the model.

    Raises:
        UserError: it is another kind of file.
    """
    beside = model.with_name(model.name + SUFFIX)
    if out is None:
        return beside
    path = Path(out).expanduser().absolute()
    if path.is_dir():
        return path / beside.name
    if path.suffix != SUFFIX:
        raise UserError(f"out={out} does not end in {SUFFIX}; name such a file, or a folder.")
    return path
