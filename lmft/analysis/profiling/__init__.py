"""Where the time of a training step goes, by operator family and phase.

Measured by torch's profiler.
"""
