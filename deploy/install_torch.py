"""Install the pinned torch for the CPU into this environment, or say why not; never gigabytes of CUDA by accident.

Tried in order: what is installed already; a CPU wheel in pip's own find-links folders; PyTorch's CPU index; and, where
the plain wheel is a CPU build anyway (macOS, Linux on ARM), the default index.
"""

import importlib.metadata
import platform
import subprocess
import sys

TORCH = "torch==2.13.0"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
QUICK = ["--retries", "1", "--timeout", "5"]


def main() -> int:
    """Return 0 when the pinned torch is there."""
    if installed():
        return 0
    plain_is_cpu = sys.platform == "darwin" or platform.machine().lower() in ("aarch64", "arm64")
    attempts = [
        # a local "+cpu" version is newer than the plain one to pip, so this takes nothing else
        [f"{TORCH}+cpu", "--only-binary", "torch"],
        [f"{TORCH}+cpu", "--index-url", CPU_INDEX, *QUICK],
    ]
    if plain_is_cpu:
        attempts.append([TORCH])
    for attempt in attempts:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *attempt]
        if subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode == 0 and installed():
            return 0
    print(
        f"No CPU build of {TORCH} could be had (tried pip's find-links folders and {CPU_INDEX}).\n"
        f"Get one and run again, for example: .venv/bin/pip install '{TORCH}' --index-url {CPU_INDEX}",
        file=sys.stderr,
    )
    return 1


def installed() -> bool:
    """Return whether the pinned version is there, in whatever build."""
    try:
        return importlib.metadata.version("torch").partition("+")[0] == TORCH.partition("==")[2]
    except importlib.metadata.PackageNotFoundError:
        return False


if __name__ == "__main__":
    sys.exit(main())
