"""The folder of a training: the best agent, the last one, checkpoints, and the learning curve; it survives a kill."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lrcontrol.cell_store import LOCK, claim
from lrcontrol.checkpoints import Checkpoints
from lrcontrol.envs.errors import InputError

CONFIG, CURVE, STATE = "training.json", "progress.csv", "state.json"
COLUMNS = (
    "timesteps",
    "seconds",
    "episodes",
    "return_mean",
    "loss_mean",
    "diverged",
    "score",
    "mean_loss",
    "worst_loss",
)


@dataclass
class Progress:
    """How far a training is.

    Attributes:
        timesteps: environment steps done.
        seconds: time taken.
        resumes: how often it was taken up again.
        best: the best validation score so far, infinite before the first.
        rows: the learning curve, by the names in ``COLUMNS``.
    """

    timesteps: int = 0
    seconds: float = 0.0
    resumes: int = 0
    best: float = float("inf")
    rows: list[dict[str, Any]] = field(default_factory=list)


class TrainingFolder:
    """Where a training writes.

    Args:
        path: the folder: new, empty, or holding the same training.
        config: what makes it the same; must go into JSON.

    Raises:
        InputError: the folder cannot be written, is in use, or holds something else; the difference is shown.
    """

    def __init__(self, path: Path, config: Mapping[str, Any]) -> None:
        self.path, self.config = path, json.loads(json.dumps(config))
        self.checkpoints = Checkpoints(path)
        try:
            if path.exists() and not path.is_dir():
                raise InputError(f"{path} is a file: give a folder as --out")
            path.mkdir(parents=True, exist_ok=True)
            known = path / CONFIG
            if known.is_file() and self._begun:
                self._compare(json.loads(known.read_text(encoding="utf-8")))
            elif not known.is_file() and {child.name for child in path.iterdir()} - {LOCK}:
                raise InputError(f"{path} is not empty and holds no training: choose another --out")
            self._lock = claim(path)
            if not self._begun:  # what was refused before its first step leaves nothing to go on with
                known.write_text(json.dumps(self.config, indent=1) + "\n", encoding="utf-8")
        except json.JSONDecodeError as error:
            raise InputError(f"{path / CONFIG} is damaged: delete the folder, or choose another --out") from error
        except OSError as error:
            raise InputError(f"cannot write to {path}: {error.strerror}; choose another --out") from error

    @property
    def _begun(self) -> bool:
        """Whether anything was trained here."""
        return self.checkpoints.newest() is not None or _last_timesteps(self.path / CURVE) > 0

    def close(self) -> None:
        """Let others work in the folder."""
        self._lock.release()

    def _compare(self, found: Mapping[str, Any]) -> None:
        names = [name for name in {**found, **self.config} if found.get(name) != self.config.get(name)]
        if names:
            differences = "; ".join(f"{name}: {found.get(name)} there, {self.config.get(name)} now" for name in names)
            raise InputError(f"{self.path} holds another training ({differences}): choose another --out")

    def take_up(self, say: Callable[[str], None]) -> Progress:
        """Return the progress at the newest checkpoint and say what is lost: what was done after it, replay buffers."""
        newest = self.checkpoints.newest()
        logged = _last_timesteps(self.path / CURVE)
        if newest is None:
            if logged:
                say(f"{self.path}: no checkpoint was written yet; {logged:,} timesteps are lost, starting anew")
            self._write_curve([])
            return Progress(resumes=1 if logged else 0)
        progress = Progress(**json.loads((newest / STATE).read_text(encoding="utf-8")))
        self.publish()
        self._write_curve(progress.rows)
        lost = max(0, logged - progress.timesteps)
        buffer = "; the replay buffer is filled anew" if "buffer_size" in self.config.get("parameters", {}) else ""
        after = f"{lost:,} done after that checkpoint are lost{buffer}"
        say(f"{self.path}: taken up at {progress.timesteps:,} timesteps; {after}")
        progress.resumes += 1
        return progress

    def publish(self) -> None:
        """Put the newest checkpoint's best agent into the folder itself and its last one into ``last``."""
        self.checkpoints.publish("best", self.path)
        self.checkpoints.publish("last", self.path / "last")

    def log(self, row: Mapping[str, Any]) -> None:
        """Append a row to the learning curve."""
        with (self.path / CURVE).open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, COLUMNS, lineterminator="\n").writerow(row)

    def _write_curve(self, rows: list[dict[str, Any]]) -> None:
        with (self.path / CURVE).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def _last_timesteps(curve: Path) -> int:
    if not curve.is_file():
        return 0
    with curve.open(newline="", encoding="utf-8") as file:
        numbers = [row["timesteps"] for row in csv.DictReader(file)]
    return int(numbers[-1]) if numbers and numbers[-1].isdigit() else 0
