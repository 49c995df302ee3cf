"""Files on disk: atomic writes, checksums, locks, caches, content hashes.

`hub` resolves names of models and datasets to local folders or commits of the Hugging Face Hub.
"""
