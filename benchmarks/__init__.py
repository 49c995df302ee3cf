"""The bench: figures of speed and memory, beside what a user would otherwise run (`make bench`).

A row (rows.py) is measured by two processes that take turns (turns.py), ours (ours.py) and
transformers.Trainer's (peer.py), or by commands timed from outside (commands.py, tokenizing.py).
What was found (figures.py) is kept row by row (store.py) and shown as one table (table.py).
"""
