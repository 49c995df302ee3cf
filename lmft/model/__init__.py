"""The model: loading and saving weights, the LM head, the loss, mixed precision.

`kernels/` holds faster and leaner replacements of single layers.
"""
