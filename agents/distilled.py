"""``distilled``: what the learned network does, as two lines that can be read: one for SGD, one for AdamW."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from lrcontrol.agents.gated import merge
from lrcontrol.agents.learned import learned
from lrcontrol.agents.network import Network
from lrcontrol.agents.trained import TrainedAgent

# For SGD ``learned`` is a line, here rounded; for the others this is the least-squares line through the actions of a
# network on tasks that it was trained on, from when that network drove SGD as well (experiments/learned/figures.py
# prints both anew). Read: the step relative to the parameters is driven towards a length that grows with the agreement
# of gradients, and shrinks when the loss is above its best; the further the rate has come from where it began, the less
# of that. With SGD it is the length at the schedule's peak, so that the schedule is followed. Where the loss is far
# below the first, rates run away in long runs: the terms of far_below_first are against that, and put in by hand.
SGD = {
    "bias": -2.39,
    "relative_peak": -0.57,
    "above_best": -1.68,
    "grad_cosine": 1.05,
    "log_level": -1.26,
    "loss_vs_fast": 0.87,
    "fast_vs_slow": -0.54,
    "possible_decrease": -1.21,
    "below_first": -0.69,
    "budget_left": -0.08,
    "far_below_first": 0.5,
}
ADAPTIVE = {
    "bias": -2.16,
    "loss_change": 0.03,
    "loss_vs_fast": 0.68,
    "fast_vs_slow": -0.55,
    "above_best": -1.13,
    "below_first": 0.10,
    "grad_cosine": 0.54,
    "predicted_decrease": 0.05,
    "relative_step": -1.30,
    "log_level": -0.69,
    "budget_left": 0.40,
    "far_below_first": 0.1,
}


@functools.cache
def distilled() -> TrainedAgent:
    """Return the agent that multiplies the rate by 2 to the power of a line through its features, held to −1..1.

    Schedule and start are those of ``learned``; the initial rate is not looked at.
    """
    both = merge(_line(SGD), _line(ADAPTIVE))
    return replace(both, name="distilled", training={})


def _line(weights: Mapping[str, float]) -> TrainedAgent:
    features = tuple(name for name in weights if name != "bias")
    tensors = {
        "layers.0.weight": np.array([[weights[name] for name in features]], np.float32),
        "layers.0.bias": np.array([weights["bias"]], np.float32),
    }
    needs = {**learned().needs, "features": features}
    return TrainedAgent("line", needs, Network(tensors, "tanh", "clip", (1,)), "least squares", {})
