"""Run folders: their names and run keys, what they contain, where a run came from.

Nothing heavy is imported, so that the result of a finished run is shown at once.
"""
