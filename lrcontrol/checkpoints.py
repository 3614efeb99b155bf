"""Checkpoints of a training: folders that are written whole or not at all, the newest of which counts."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from lrcontrol.envs.errors import InputError


class Checkpoints:
    """The folder ``checkpoints`` of a training's folder, with a folder for each number of env steps; two are kept."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "checkpoints"

    def _all(self) -> list[Path]:
        found = self.folder.iterdir() if self.folder.is_dir() else []
        return sorted(path for path in found if path.name.isdigit())

    def newest(self) -> Path | None:
        """Return the newest checkpoint, or None."""
        found = self._all()
        return found[-1] if found else None

    def write(self, timesteps: int, fill: Callable[[Path], None]) -> Path:
        """Let ``fill`` write a checkpoint into a new folder, put it in place, and return it.

        Raises:
            InputError: it cannot be written; those before are as they were.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        target = self.folder / f"{timesteps:012d}"
        temporary = Path(tempfile.mkdtemp(prefix=".new.", dir=self.folder))
        try:
            fill(temporary)
            temporary.chmod(0o755)
            if target.exists():
                shutil.rmtree(target)
            temporary.rename(target)
        except OSError as error:
            raise InputError(
                f"cannot write {target}: {error.strerror or error}; the checkpoint before is kept"
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        for old in self._all()[:-2]:
            shutil.rmtree(old, ignore_errors=True)
        return target

    def publish(self, part: str, target: Path) -> None:
        """Copy the files of a part of the newest checkpoint into ``target``, each in one move."""
        newest = self.newest()
        if newest is None or not (newest / part).is_dir():
            return
        target.mkdir(parents=True, exist_ok=True)
        for source in sorted((newest / part).iterdir(), reverse=True):
            copy = target / f".{source.name}.new"
            shutil.copyfile(source, copy)
            copy.replace(target / source.name)
