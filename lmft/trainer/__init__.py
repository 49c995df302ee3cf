"""Training: the loop, the optimizer step, checkpoints, evaluation and the model card.

Start reading in `run.py`, which takes a run from its config to its result.
"""
