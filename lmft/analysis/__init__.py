"""Analyses of runs: compare several, plan, profile or verify one.

Each package implements one verb of the command line.
"""
