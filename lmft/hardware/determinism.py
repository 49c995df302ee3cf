"""Kernels of a GPU that compute the same bits each time.

Some kernels add numbers in the order in which threads finish. torch has others for most of them,
such as the backward passes of attention and of embeddings.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

settings: Any = torch.utils.deterministic
WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"  # the variable that cuBLAS reads when it starts


def prepare_deterministic_kernels() -> None:
    """Give cuBLAS the workspace with which its products are the same each time."""
    os.environ.setdefault(WORKSPACE, ":4096:8")


@contextmanager
def deterministic_kernels() -> Iterator[None]:
    """Let torch choose deterministic kernels inside; operations that have none raise an error."""
    before = torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    filled = settings.fill_uninitialized_memory
    settings.fill_uninitialized_memory = False  # filling it finds errors, and takes time
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)
        settings.fill_uninitialized_memory = filled
