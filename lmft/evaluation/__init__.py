"""Numbers and texts from a model: per-token losses, intervals, bits per byte, samples.

A result carries its label and the fingerprint of all that makes it comparable.
"""
