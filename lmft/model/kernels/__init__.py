"""Replacements of single layers: CPU attention, dropout from seeds, recomputed activations.

`replace.py` puts them into a model.
"""
