"""`lmft merge`: write the best weights of a run with an adapter as an ordinary model."""

import shutil
from argparse import Namespace
from pathlib import Path

from lmft.adapter.adapter_files import WEIGHTS, is_adapted
from lmft.adapter.attach import merge_adapter
from lmft.errors import UserError
from lmft.model.load import load_model
from lmft.runs.run import run_with_weights
from lmft.storage.atomic import new_folder
from lmft.storage.hub import ADAPTER_CONFIG
from lmft.trainer.components import find_tokenizer
from lmft.trainer.model_card import CARD_IN_FOLDER, CURVE

NOT_OF_A_MODEL = (WEIGHTS, ADAPTER_CONFIG, CARD_IN_FOLDER, CURVE)


def main(arguments: Namespace) -> None:
    """Run the command.

    Raises:
        UserError: the words do not name one run.
    """
    if len(arguments.words) != 1:
        raise UserError("lmft merge takes one run; lmft runs lists those there are.")
    folder = merge(arguments.words[0], arguments.out)
    print(f"Merged into {folder}; it loads anywhere, as in model=pretrained model.name={folder}.")


def merge(name: str, out: str | None) -> Path:
    """Add the adapter of a run to the weights of its base, in fp32, and write them to a folder.

    Args:
        name: the run's folder or MLflow id.
        out: the folder; None: `merged` in that of the run.

    Raises:
        UserError: the run trained no adapter, or the folder exists.
    """
    run = run_with_weights(name, [])
    folder = run.folder / "merged" if out is None else Path(out).expanduser().absolute()
    if out is not None and folder.exists():
        raise UserError(f"out={out} is there already; choose another folder.")
    config, tokenizer = run.config, find_tokenizer(run.config, {})
    model = load_model(config.model, config.objective, tokenizer, config.seed)
    if not is_adapted(model):
        raise UserError(f"run={name} trained no adapter: {run.checkpoint} is a whole model.")
    merge_adapter(model)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with new_folder(folder) as temporary:
        model.save_pretrained(temporary)
        for file in run.checkpoint.iterdir():
            if file.name not in NOT_OF_A_MODEL:
                shutil.copyfile(file, temporary / file.name)
    return folder
