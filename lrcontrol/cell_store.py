"""The folder of a study: a file for each cell that is done, a manifest of what it is a study of, and a journal."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lrcontrol.cells import Cell, Outcome
from lrcontrol.cli import file_name
from lrcontrol.envs.errors import InputError

MANIFEST, JOURNAL, CELLS, LOCK = "manifest.json", "journal.jsonl", "cells", ".lock"
# Of a manifest: how far a study is, where the code was checked out (the code itself is in its digest), and what
# says once more what the configuration does.
CIRCUMSTANCES = ("complete", "failures", "commit", "command", "seeds")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that at any moment it is there with all its bytes or as it was before.

    Raises:
        InputError: it cannot be written; a disk that is full loses nothing that was there.
    """
    new = path.with_name(f".{path.name}.new")
    try:
        with new.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: OSError) -> InputError:
    """Return what is to be said where a file of a study could not be written."""
    return InputError(
        f"cannot write {path}: {error.strerror or error}; what was done is kept: make room and give the same command "
        f"again, or choose another --out"
    )


class CellStore:
    """The folder ``folder`` of the study with ``manifest``; cells that it holds already need not be run again.

    It is this process's until ``close``.

    Raises:
        InputError: the folder cannot be written, holds something else (the difference is in the message), or another
            command is at work in it.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any], overwrite: bool = False) -> None:
        self.folder, self.manifest = folder, manifest
        self.identity = _identity(json.loads(json.dumps(manifest)))
        text = json.dumps(self.identity, sort_keys=True)
        self.digest = hashlib.sha256(text.encode()).hexdigest().encode() + b"\n"  # leads each cell's file
        _check_writable(folder)
        if folder.is_dir() and any(folder.iterdir()):
            self._check_content(overwrite)
        try:
            (folder / CELLS).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot write to {folder}: {error.strerror}; choose another --out") from error
        self._lock = claim(folder)
        if not (folder / MANIFEST).is_file():
            self.write_manifest(complete=False)

    def close(self) -> None:
        """Let others work in the folder."""
        self._lock.release()

    def _check_content(self, overwrite: bool) -> None:
        path = self.folder / MANIFEST
        if not path.is_file():
            if {child.name for child in self.folder.iterdir()} <= {CELLS, LOCK, f".{MANIFEST}.new"}:
                return  # killed while the first things were made
            raise InputError(f"{self.folder} is not empty and holds no results of an evaluation: choose another --out")
        found = self._found(path, overwrite)
        if overwrite:
            claim(self.folder).release()
            aside = self.folder.with_name(f".{self.folder.name}.old")
            shutil.rmtree(aside, ignore_errors=True)
            self.folder.rename(aside)  # at once: half a study would look like the beginning of another
            shutil.rmtree(aside)
            return
        different = "; ".join(_differences(_identity(found), self.identity))
        if different:
            raise InputError(
                f"{self.folder} holds another study ({different}): choose another --out, or add --overwrite to "
                f"replace it"
            )
        self.manifest |= {name: found.get(name) for name in ("commit", "command")}

    def _found(self, path: Path, overwrite: bool) -> dict[str, Any]:
        """Return the manifest that is there; one's own in the place of a damaged one that is to be overwritten."""
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            cells = (self.folder / CELLS).is_dir()
            if overwrite and cells:
                return self.manifest
            way_out = "choose another --out" + (", or add --overwrite" if cells else "")
            raise InputError(f"{path} is damaged ({error}): {way_out}") from error
        if not isinstance(found, dict) or not self.manifest.keys() <= found.keys() | {"code"}:
            raise InputError(f"{path} is not of an evaluation: choose another --out")
        return found

    def path(self, cell: Cell) -> Path:
        """Return where a cell's file is."""
        parts = (cell.task, cell.optimizer, cell.agent, f"run{cell.first}")
        apart = hashlib.sha256("-".join(parts).encode()).hexdigest()[:8]
        return self.folder / CELLS / f"{file_name(*parts)[:120]}-{apart}.cell"

    def read(self, cell: Cell) -> Outcome | None:
        """Return what a cell found, None where it was not run, or its file is damaged or of another study."""
        try:
            content = self.path(cell).read_bytes()
        except OSError:
            return None
        return Outcome.from_bytes(content[len(self.digest) :]) if content.startswith(self.digest) else None

    def write(self, cell: Cell, content: bytes) -> None:
        """Keep what ``Outcome.to_bytes`` made."""
        write_whole(self.path(cell), self.digest + content)

    def note(self, event: str, **facts: Any) -> None:
        """Add a line to the journal: what happened and when. It is no part of the results."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        line = json.dumps({"time": now, "event": event, **facts})
        try:
            with (self.folder / JOURNAL).open("a", encoding="utf-8") as file:
                file.write(f"\n{line}" if file.tell() else line)  # what follows a line cut short begins anew
        except OSError as error:
            print(f"note: {self.folder / JOURNAL} could not be written: {error.strerror}", file=sys.stderr)

    def write_manifest(self, complete: bool, failures: list[dict[str, Any]] | None = None) -> dict[str, Any]:
        """Write how far the study is beside what it is of, and return that."""
        manifest = self.manifest | {"complete": complete, "failures": failures or []}
        write_whole(self.folder / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())
        return manifest


def read_journal(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield what happened in a study's folder; a line that was cut short, as by a full disk, is passed over."""
    for line in (folder / JOURNAL).read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            yield json.loads(line)


def claim(folder: Path) -> FileLock:
    """Return the lock of a folder; the operating system lets go of it when the process ends, however that is."""
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(
            f"another command is at work in {folder}: wait for it, or choose another --out; if there is none, remove "
            f"{folder / LOCK}"
        ) from error
    except (OSError, NotImplementedError) as error:
        print(f"note: {folder} cannot be locked ({error}): give it to one command at a time", file=sys.stderr)
    return lock


def _identity(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in manifest.items() if name not in CIRCUMSTANCES}


def _differences(there: Any, asked: Any, name: str = "") -> Iterator[str]:
    """Yield what differs between two nested dictionaries, by dotted name."""
    if isinstance(there, dict) and isinstance(asked, dict):
        for key in sorted(there.keys() | asked.keys()):
            yield from _differences(there.get(key), asked.get(key), f"{name}.{key}" if name else key)
    elif there != asked:
        yield f"{name} is {there} there and {asked} here"


def _check_writable(folder: Path) -> None:
    """Raise InputError where nothing can be written; nothing is left there: the work may still be refused."""
    try:
        there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
        if not there.is_dir():
            raise InputError(f"{there} is a file: give a folder as --out")
        if there == folder and os.access(folder, os.W_OK):
            return
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=there):
            pass
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}; choose another --out") from error
