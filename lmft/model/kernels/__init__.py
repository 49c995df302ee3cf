"""Replacements of single layers: CPU attention, seeded dropout, recomputed activations.

`replace.py` puts them into a model.
"""
