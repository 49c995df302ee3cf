"""What a run would take before it starts: memory, disk and time.

Counted where possible, else measured in a few steps.
"""
