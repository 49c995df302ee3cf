"""Adapters: small matrices that are trained beside the frozen weights of a base, by peft.

Their folders are those of peft: a config, the adapter's own weights, no weights of the base.
"""
