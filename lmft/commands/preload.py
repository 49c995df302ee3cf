"""torch's largest library is loaded while Hydra composes: a quarter of what `import torch` takes.

Python loads an extension with the interpreter locked; a thread that asks the C library for it does
so beside all Python code, and `import torch` then finds it loaded. Other libraries wait meanwhile,
so it begins when those of Hydra and NumPy are there.
"""

import importlib.util
import os
from pathlib import Path
from threading import Thread

from lmft.hardware.allocator import glibc


def load_torch_ahead() -> None:
    """Begin; where the library is not found or does not load, `import torch` will tell.

    The process does not end before the thread has: what the library sets up and what the end tears
    down must not meet.
    """
    libc, torch = glibc(), importlib.util.find_spec("torch")
    if libc is None or torch is None or torch.origin is None:
        return
    library = Path(torch.origin).with_name("lib") / "libtorch_cpu.so"
    Thread(target=libc.dlopen, args=(bytes(library), os.RTLD_NOW)).start()
