"""Sweeps: many runs by one command, their Optuna study, leaderboard and plots.

Hydra finds its callback here by `_target_`.
"""

from lmft.sweep.callback import OpenSweep

__all__ = ["OpenSweep"]
