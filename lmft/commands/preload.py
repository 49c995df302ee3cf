"""Load torch's largest library in a thread while Hydra composes.

That saves a quarter of `import torch`. Python loads an extension with the interpreter locked; a
thread that calls dlopen through ctypes does not, and `import torch` then finds the library loaded.
Other libraries wait for the loader meanwhile, so it starts after those of Hydra and NumPy.
"""

import importlib.util
import os
from pathlib import Path
from threading import Thread

from lmft.hardware.allocator import glibc


def preload_torch() -> None:
    """Start loading; where the library is missing or broken, `import torch` will report it.

    The thread is not a daemon: the process must not exit while the library initializes.
    """
    libc, torch = glibc(), importlib.util.find_spec("torch")
    if libc is None or torch is None or torch.origin is None:
        return
    library = Path(torch.origin).with_name("lib") / "libtorch_cpu.so"
    Thread(target=libc.dlopen, args=(bytes(library), os.RTLD_NOW)).start()
