"""`lmft push`: publish the best weights of a run on the Hugging Face Hub."""

import logging
import sys
from argparse import Namespace

from lmft.commands.words import one_run
from lmft.errors import UserError
from lmft.output.sanitize import strip_control
from lmft.output.terminal import counted, readable_size
from lmft.runs.publication import CardOptions, find_weights, published_files
from lmft.storage.hub_upload import Push, plan_push, send


def main(arguments: Namespace) -> None:
    """Run the command."""
    name = one_run("push", arguments)
    if arguments.repo is None:
        raise UserError("lmft push needs the name of a repository; add repo=OWNER/NAME.")
    if not sys.stderr.isatty():
        from huggingface_hub.utils.tqdm import disable_progress_bars

        disable_progress_bars()
    options = CardOptions(arguments.license, arguments.language, arguments.samples)
    push(name, arguments.repo, options, arguments.private, arguments.dry_run, arguments.tracker_uri)


def push(
    name: str,
    repo: str,
    options: CardOptions,
    private: bool,
    dry_run: bool,
    tracker_uri: str | None = None,
) -> str:
    """Show what the repository lacks, then send it; return the repository's address.

    Args:
        name: of the run, its folder or MLflow id, or the folder of a model.
        repo: owner/name on the hub.
        options: for the card.
        private: whether a new repository is.
        dry_run: only show it.
        tracker_uri: the MLflow store of an id.

    Raises:
        UserError: the hub can't be reached or refuses it.
    """
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # what matters is said here
    weights = find_weights(name, tracker_uri)
    plan = plan_push(repo, published_files(weights, options), dry_run)
    show(plan, private)
    if not (plan.sent or plan.removed):
        print("The repository has it all; nothing to send.")
    elif dry_run:
        unasked = "" if plan.is_asked else " You are not logged in; what it has already is unknown."
        print(f"dry_run=true: nothing was sent.{unasked}")
    else:
        run = weights.parent if weights.name == "checkpoint" else weights
        print(f"Sent    {send(plan, private, f'Upload {run.name} by lmft')}")
    return plan.url


def show(plan: Push, private: bool) -> None:
    """Print each file with its size and state, and where it goes."""
    kind = f"a new {'private' if private else 'public'} repository" if plan.is_new else ""
    print(f"To      {plan.url}{f', {kind}' if kind else ''}")
    width = max(len(change.path) for change in plan.changes)
    for change in plan.changes:
        size = readable_size(change.size)
        print(strip_control(f"{change.state:<8}{change.path:<{width}}  {size:>10}", lines=False))
    total = sum(change.size for change in plan.sent)
    print(f"In all  {counted(len(plan.sent), 'file')} to send, {readable_size(total)}")
