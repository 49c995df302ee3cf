"""Benchmarks of speed and memory, compared with transformers.Trainer (`make bench`).

A row (rows.py) is measured by two processes that alternate step by step (turns.py), lmft (ours.py)
and transformers.Trainer (peer.py), or by timing whole commands (commands.py, tokenizing.py).
The results (figures.py) are stored row by row (store.py) and printed as one table (table.py).
"""
