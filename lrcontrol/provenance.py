"""How a result was made: command, versions, commit, machine."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

PACKAGES = (
    *("torch", "numpy", "gymnasium", "stable-baselines3", "scipy", "pyarrow", "matplotlib"),
    *("numba", "prodigyopt", "pytorch-optimizer", "schedulefree"),
)


def provenance() -> dict[str, Any]:
    """Return command, versions, commit and device for a manifest."""
    import torch

    import lrcontrol
    from lrcontrol.envs.compiled import is_wanted

    return {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "lrcontrol": lrcontrol.__version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := _version(name)) is not None},
        "machine": {
            "platform": f"{platform.system()} {platform.machine()}",
            "torch_threads": torch.get_num_threads(),
            "compiled": is_wanted(),
            "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
    }


def code_digest() -> str:
    """Return the SHA-256 of all that this package is made of: numbers of two digests are those of two programs."""
    import lrcontrol.agents
    import lrcontrol.envs

    digest = hashlib.sha256()
    for package in (lrcontrol, lrcontrol.envs, lrcontrol.agents):
        folder = Path(str(package.__file__)).parent
        for path in sorted([*folder.glob("*.py"), *folder.glob("policies/*/*")]):
            digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Return the commit of the checkout this package runs from, marked if files differ from it; None elsewhere."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return commit + ("-dirty" if _git(root, "status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=10
    ).stdout.strip()
