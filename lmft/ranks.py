"""Which of a run's processes this one is, as torchrun says it in the environment."""

import os

LOCAL = "127.0.0.1"
STORE = "LMFT_STORE"  # the port of the store of processes that lmft itself started


def is_started_in_team() -> bool:
    """Whether torchrun started this process beside others."""
    return int(os.environ.get("WORLD_SIZE", 1)) > 1 and "RANK" in os.environ


def is_leader() -> bool:
    """Whether this process composes the config: of a team, the first."""
    return not is_started_in_team() or os.environ["RANK"] == "0"
