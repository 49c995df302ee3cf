"""Proofs on the user's own run: bit-exact resume, and independence of the micro-batch size.

Each raises an error where the promise does not hold.
"""
