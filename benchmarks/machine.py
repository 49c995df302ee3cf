"""Hardware, package versions and commit of a benchmark."""

import hashlib
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

PACKAGES = ("torch", "transformers", "accelerate", "datasets", "tokenizers", "mlflow", "numpy")
ROOT = Path(__file__).parents[1]


def hardware() -> str:
    """Return the GPU or CPU name, the number of cores and, for a CPU, its bf16 support."""
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, {os.cpu_count()} cores"
    lines = Path("/proc/cpuinfo").read_text().splitlines() if platform.system() == "Linux" else []
    names = [line.split(": ")[1] for line in lines if line.startswith("model name")]
    bf16 = "with" if native_bf16() else "without"
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores, {bf16} bf16"


def native_bf16() -> bool:
    """Return whether the hardware computes bf16 natively."""
    import torch

    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that determine the speed."""
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version()} | found


def commit() -> str:
    """Return the short hash of HEAD, followed by a hash of uncommitted changes, if any."""
    changes = _git("diff", "HEAD")
    digest = hashlib.sha256(changes.encode()).hexdigest()[:7]
    return _git("rev-parse", "--short", "HEAD").strip() + (f"+{digest}" if changes else "")


def _git(*words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
