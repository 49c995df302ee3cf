"""Timings, run by hand (`make bench`): pytest collects none of them."""
