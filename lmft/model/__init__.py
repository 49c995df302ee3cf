"""The model: loading and saving weights, the LM head, the loss, mixed precision.

`kernels/` holds replacements of single layers that are faster or need less memory.
"""
