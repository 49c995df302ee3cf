"""Measure where the time of a training step goes, by operator family and phase.

With torch's profiler.
"""
