"""The machine: devices, processes, memory, and how fast it multiplies matrices.

Hardware may change speed, never the numbers.
"""
