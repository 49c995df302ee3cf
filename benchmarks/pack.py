"""Pack lmft, its tests, its benchmarks and what they read, for a GPU machine without a network.

    python -m benchmarks.pack OUT.tar.xz [--python 3.12]

That machine has torch for CUDA, and pytest; the packages in THERE are those that usually come with
it. Unpacked, `make test-cuda` and `make bench-cuda` run in the folder `lmft` with the machine's own
Python (docs/gpu.md).
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.ours import SHARED

ROOT = Path(__file__).parents[1]
THERE = set(
    """torch triton numpy pandas pyarrow scipy matplotlib rich psutil safetensors jinja2 filelock
    requests pyyaml click packaging tqdm fsspec aiohttp httpx typing-extensions scikit-learn
    cryptography protobuf accelerate setuptools""".split()
)
READ = ["models/stories260k", "models/distilgpt2-architecture", "peers"]
TEXT = ["train.txt", "valid.txt", "test.txt"]  # of data/wikitext-2
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (17, 24, 27, 28, 31, 34)]


def needed(name: str, found: dict[str, str]) -> dict[str, str]:
    """Return the versions of the packages that `name` needs here, and that are not there."""
    for text in distribution(name).requires or []:
        requirement = Requirement(text)
        other = canonicalize_name(requirement.name)
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if not applies or other in THERE or other in found:
            continue
        try:
            found[other] = distribution(other).version
        except PackageNotFoundError:  # an optional part of one that is there
            continue
        needed(other, found)
    return found


def install(packages: dict[str, str], python: str, site: Path) -> None:
    """Unpack the wheels of packages for Linux on x86-64 into `site`."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    target = ["--only-binary=:all:", f"--python-version={python}", "--implementation=cp"]
    target += [f"--platform={platform}" for platform in [*PLATFORMS, "manylinux2014_x86_64"]]
    wheels = site.parent / "wheels"
    for name, version in packages.items():
        word = f"{name}=={version}"
        download = [*pip, "download", "--no-deps", *target, "-d", wheels, word]
        if subprocess.run(download, capture_output=True).returncode:  # published as source alone
            build = [*pip, "wheel", "--no-deps", "-w", wheels, word]
            subprocess.run(build, check=True, capture_output=True)
    own = [*pip, "wheel", "--no-deps", "-w", wheels, ROOT]  # for its version and entry points
    subprocess.run(own, check=True, capture_output=True)
    files = sorted(wheels.glob("*.whl"))
    unpack = [*pip, "install", "--no-deps", "--no-index", "--no-compile", "--target", site]
    subprocess.run([*unpack, *target, *files], check=True)
    shutil.rmtree(wheels)
    shutil.rmtree(site / "mlflow/server/js", ignore_errors=True)


def main() -> None:
    """Pack."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--python", default="3.12")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        lmft = Path(temporary) / "lmft"
        files = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout
        for name in filter(None, files.split("\0")):
            (lmft / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, lmft / name)
        install(needed("lmft", {}), chosen.python, lmft / "site")
        for name in [*READ, *(f"data/wikitext-2/{name}" for name in TEXT)]:
            (lmft / "shared" / name).parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if (SHARED / name).is_dir() else shutil.copy
            copy(SHARED / name, lmft / "shared" / name)
        subprocess.run(["tar", "-C", temporary, "-cJf", chosen.out.absolute(), "lmft"], check=True)
    print(f"{chosen.out}: {chosen.out.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
