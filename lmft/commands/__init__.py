"""The verbs of the command line, one module each, and the start of training.

`cli.py` imports only the one that is asked for.
"""
