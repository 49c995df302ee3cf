"""Evaluating a model: per-token losses, confidence intervals, bits per byte, samples.

A result carries a label and a fingerprint: results with equal fingerprints are comparable.
"""
