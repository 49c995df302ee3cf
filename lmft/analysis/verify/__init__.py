"""Prove two promises on the user's own run: bit-exact resume, and any micro-batch size.

Each proof raises an error if the promise does not hold.
"""
