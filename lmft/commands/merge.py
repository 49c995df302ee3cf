"""`lmft merge`: write the best weights of a run with an adapter as an ordinary model."""

import shutil
from argparse import Namespace
from pathlib import Path

from lmft.adapter.adapter_files import WEIGHTS, is_adapted
from lmft.adapter.attach import merge_adapter
from lmft.commands.words import one_run
from lmft.errors import UserError, writable
from lmft.model.load import load_model
from lmft.output.sanitize import strip_control
from lmft.runs.find_run import find_folder
from lmft.runs.run import run_with_weights
from lmft.storage.atomic import new_folder
from lmft.storage.hub import ADAPTER_CONFIG
from lmft.trainer.model_card import CARD_IN_FOLDER, CURVE
from lmft.trainer.run_tokenizer import find_tokenizer

NOT_OF_A_MODEL = (WEIGHTS, ADAPTER_CONFIG, CARD_IN_FOLDER, CURVE)


def main(arguments: Namespace) -> None:
    """Run the command."""
    folder = merge(one_run("merge", arguments), arguments.out, arguments.tracker_uri)
    print(strip_control(f"Merged into {folder}; use it as model=pretrained model.name={folder}."))


def merge(name: str, out: str | None, tracker_uri: str | None = None) -> Path:
    """Add the adapter of a run to the weights of its base, in fp32, and write them to a folder.

    Args:
        name: the run's folder or MLflow id.
        out: the folder; None: `merged` in that of the run.
        tracker_uri: the MLflow store of an id.

    Raises:
        UserError: the run trained no adapter, or the folder exists.
    """
    run = run_with_weights(str(find_folder(name, tracker_uri)), [])
    folder = run.folder / "merged" if out is None else Path(out).expanduser().absolute()
    if out is not None and folder.exists():
        raise UserError(f"out={out} is there already; choose another folder.")
    config, tokenizer = run.config, find_tokenizer(run.config, {})
    model = load_model(config.model, config.objective, tokenizer, config.seed)
    if not is_adapted(model):
        raise UserError(f"{name} trained no adapter; {run.checkpoint} is a whole model already.")
    merge_adapter(model)
    with writable("out", folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with new_folder(folder) as temporary:
        model.save_pretrained(temporary)
        for file in run.checkpoint.iterdir():
            if file.name not in NOT_OF_A_MODEL:
                shutil.copyfile(file, temporary / file.name)
    return folder
