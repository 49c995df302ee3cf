"""`lmft verify`: prove on the user's own run what lmft promises of every run."""

from argparse import Namespace

from lmft.errors import UserError, did_you_mean
from lmft.output.terminal import Screen

PROOFS = ("resume", "batch")


def main(arguments: Namespace) -> None:
    """Run the command.

    Raises:
        UserError: the words can't be used.
        VerificationError: the promise does not hold.
    """
    proof, knobs = read_words(arguments.words)
    console = Screen()
    if proof == "resume":
        from lmft.analysis.verify.resume import verify_resume

        verify_resume(knobs, console)
    else:
        from lmft.analysis.verify.micro_batches import verify_batch

        verify_batch(knobs, console)


def read_words(words: list[str]) -> tuple[str, list[str]]:
    """Return which proof is asked for, and the knobs of the run.

    Raises:
        UserError: there is no such proof, or a word is not a knob.
    """
    proof, knobs = (words[0], words[1:]) if words else ("", [])
    if proof not in PROOFS:
        raise UserError(
            f"lmft verify proves resume or batch, not {proof!r}; "
            "run lmft verify resume [KNOB=VALUE ...]." + did_you_mean(proof, PROOFS)
        )
    for word in knobs:
        if "=" not in word:
            raise UserError(f"{word!r} is not KNOB=VALUE; lmft verify takes nothing else.")
    return proof, knobs
