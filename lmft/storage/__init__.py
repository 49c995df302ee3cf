"""Files on disk: atomic writes, checksums, locks, caches, content hashes.

Models and datasets of the Hugging Face hub are found here, too.
"""
