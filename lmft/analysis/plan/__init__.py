"""Estimate the memory, disk space and time of a run before it starts.

Counted where possible, else measured in a few steps.
"""
