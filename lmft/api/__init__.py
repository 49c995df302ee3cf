"""The Python API: train, load, compare and sweep from a notebook or a program.

Calls take the words of the command line and raise its sentences as exceptions.
"""
