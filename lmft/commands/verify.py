"""The story of `lmft verify`: does what is promised of every run hold for this one, here?"""

from pathlib import Path

from lmft.errors import UserError, did_you_mean
from lmft.output.terminal import Screen

PROOFS = ("resume", "batch")


def tell(words: list[str], conf: Path) -> None:
    """The command: `lmft verify resume|batch [GROUP=CHOICE ...] [KNOB=VALUE ...]`.

    Raises:
        UserError: the words can't be used.
        Differs: the promise does not hold.
    """
    proof, knobs = check_words(words)
    console = Screen()
    if proof == "resume":
        from lmft.analysis.verify.resume import verify_resume

        verify_resume(knobs, console)
    else:
        from lmft.analysis.verify.micro_batches import verify_batch

        verify_batch(knobs, conf, console)


def check_words(words: list[str]) -> tuple[str, list[str]]:
    """Which proof, and the knobs of the run.

    Raises:
        UserError: it is no proof, or not one run's knobs.
    """
    proof, knobs = (words[0], words[1:]) if words else ("", [])
    if proof not in PROOFS:
        raise UserError(
            f"lmft verify proves resume or batch, not {proof!r}; "
            "say lmft verify resume [KNOB=VALUE ...]." + did_you_mean(proof, PROOFS)
        )
    if {"-m", "--multirun"} & set(knobs):
        raise UserError("lmft verify takes one run, not -m; give it the knobs of one of them.")
    for word in knobs:
        if word.startswith("-") or "=" not in word:
            raise UserError(f"{word!r} is not KNOB=VALUE; lmft verify takes nothing else.")
    return proof, knobs
