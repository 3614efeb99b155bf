"""What ``learned`` makes of kinds of training that it was not trained with, in plain loops.

    python -m experiments.controller.kinds
    python -m experiments.controller.kinds --only lstm "vision transformer" --optimizers adamw

A kind is a model, its minibatches and its loss (kinds_of_training.py), made anew for each run. ``learned`` starts from
a rate of 1e-6, which it does not look at. Constants and torch's OneCycleLR are tuned on these very runs: from
half-decade to half-decade, until both neighbours of the best are worse. Writes kinds.csv and kinds.png beside this
file; twenty minutes of one core.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from matplotlib.figure import Figure

import lrcontrol
from experiments.controller.kinds_of_training import KINDS, Kind
from experiments.tables import read, rounded, write_beside
from lrcontrol.envs.errors import unknown

HERE = Path(__file__).parent
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "sgd": functools.partial(torch.optim.SGD, momentum=0.9),
}
ROWS = 4000  # of the data, about, that the final loss is of
TUNED = ("constant", "one-cycle")
WORST = 1e6  # what a run that is not finite counts as, times its first loss


def final_loss(kind: Kind, optimizer: str, schedule: str, lr: float, seed: int) -> float:
    """Return the loss on some of the training data at the end of a run.

    Args:
        kind: of training.
        optimizer: of ``OPTIMIZERS``.
        schedule: constant, one-cycle, or an agent.
        lr: its rate, or its peak.
        seed: of initial parameters and minibatches.
    """
    torch.manual_seed(seed)
    model = kind.model()
    its = OPTIMIZERS[optimizer]([param for param in model.parameters() if param.requires_grad], lr=lr)
    scheduler = controller = None
    if schedule == "one-cycle":
        scheduler = torch.optim.lr_scheduler.OneCycleLR(its, lr, total_steps=kind.steps, cycle_momentum=False)
    elif schedule != "constant":
        controller = lrcontrol.LRController(its, schedule, total_steps=kind.steps)
    inputs, targets = kind.data
    worst = math.inf
    for step in range(kind.steps):
        rows = torch.randint(len(inputs), (kind.batch_size,))
        loss = kind.loss(model, inputs[rows], targets[rows])
        if step == 0:
            worst = WORST * loss.item()
        if not math.isfinite(loss.item()):
            return worst
        its.zero_grad()
        loss.backward()
        if controller is not None:
            controller.step(loss)
        its.step()
        if scheduler is not None:
            scheduler.step()
    model.eval()
    some = slice(None, None, max(len(inputs) // ROWS, 1))
    with torch.no_grad():
        torch.manual_seed(seed)
        final = kind.loss(model, inputs[some], targets[some]).item()
    return min(final, worst) if math.isfinite(final) else worst


def ends(kind: Kind, optimizer: str, runs: int, schedule: str, log: float) -> np.ndarray:
    """Return the final losses of so many runs (R,) at a rate, given as its log10."""
    return np.array([final_loss(kind, optimizer, schedule, 10.0**log, seed) for seed in range(runs)])


def tuned(losses: Callable[[float], np.ndarray], begin: float) -> tuple[float, float]:
    """Return log10 of the best rate, to half a decade, and the mean loss at it, searched downhill from ``begin``."""
    found = {begin: float(losses(begin).mean())}
    while True:
        best = min(found, key=found.__getitem__)
        ahead = [best + half for half in (-0.5, 0.5) if best + half not in found]
        if not ahead:
            return best, found[best]
        found |= {rate: float(losses(rate).mean()) for rate in ahead}


def row_of(name: str, optimizer: str, agents: tuple[str, ...], runs: int) -> dict[str, Any]:
    """Return the tuned schedules' losses on a kind, and the agents' over theirs."""
    kind = KINDS[name]()
    row: dict[str, Any] = {"optimizer": optimizer, "kind": name, "runs": runs}
    losses, at = functools.partial(ends, kind, optimizer, runs), kind.begin[optimizer]
    for schedule in TUNED:
        at, loss = tuned(functools.partial(losses, schedule), at)
        row |= {f"{schedule} at": 10.0**at, schedule: loss}
    for agent in agents:
        found = losses(agent, -6.0)
        row |= {agent: float(found.mean()), f"{agent} worst": float(found.max())}
        row |= {f"{agent} over {other}": float(found.mean() / row[other]) for other in TUNED}
    return rounded(row)


def main(
    only: tuple[str, ...] = tuple(KINDS),
    optimizers: tuple[str, ...] = tuple(OPTIMIZERS),
    agents: tuple[str, ...] = ("learned", "learned:momentum=false"),
    runs: int = 2,
    out: Path = HERE / "kinds.csv",
) -> None:
    """Run them all; rows of other kinds and optimizers stay.

    Raises:
        InputError: there is no such kind or optimizer.
    """
    for what, names, known in (("kind", only, KINDS), ("optimizer", optimizers, OPTIMIZERS)):
        for name in names:
            if name not in known:
                raise unknown(what, name, known)
    torch.set_num_threads(1)
    for name in only:
        for optimizer in optimizers:
            write_beside(out, [row_of(name, optimizer, agents, runs)], ("optimizer", "kind"))
    draw(read(out)).savefig(out.with_suffix(".png"), dpi=110)


def draw(rows: list[dict[str, str]]) -> Figure:
    """Draw each kind's loss over that of the best constant, a panel for each optimizer."""
    figure = Figure(figsize=(10.5, 5.2), layout="constrained")
    panels, names = figure.subplots(1, len(OPTIMIZERS), sharey=True), list(KINDS)
    for panel, optimizer in zip(panels, OPTIMIZERS, strict=True):
        mine = sorted((row for row in rows if row["optimizer"] == optimizer), key=lambda row: names.index(row["kind"]))
        kinds = [row["kind"] for row in mine]
        others = [float(row["one-cycle"]) / float(row["constant"]) for row in mine]
        panel.axvline(1.0, color="grey", linewidth=1.0)
        panel.plot(others, kinds, "|", color="tab:orange", markersize=12, markeredgewidth=2, label="one-cycle, tuned")
        panel.plot([float(row["learned over constant"]) for row in mine], kinds, "o", color="tab:blue", label="learned")
        panel.set(
            xscale="log", xlim=(0.42, 5.0), title=optimizer, xlabel="final training loss over the best constant rate's"
        )
        panel.set_xticks(ticks := (0.5, 0.7, 1.0, 1.4, 2.0, 4.0), [f"{tick:g}" for tick in ticks])
        panel.minorticks_off()
        panel.grid(axis="y", alpha=0.3)
    panels[0].invert_yaxis()
    panels[0].legend()
    return figure


if __name__ == "__main__":
    tyro.cli(main)
