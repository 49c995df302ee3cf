"""Questions about runs: compare them, plan one, profile one, verify one.

Each package answers one verb of the command line.
"""
