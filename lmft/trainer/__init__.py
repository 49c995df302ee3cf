"""Training: the loop, the optimizer step, checkpoints, evaluation and the model card.

`run.py` tells the story of a run from its config to its result.
"""
