"""Devices, processes, memory and peak throughput of the machine.

Hardware settings may change the speed of a run, never its results.
"""
