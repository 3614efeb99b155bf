"""``distilled``: what the learned agent does, as lines that can be read: two for SGD, two for AdamW."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from lrcontrol.agents.gated import merge
from lrcontrol.agents.learned import learned
from lrcontrol.agents.network import Network
from lrcontrol.agents.trained import TrainedAgent

# log2 of what multiplies the rate and 1 − β at a decision. For SGD ``learned`` is two lines, here rounded; for the
# others the second is one, and the first is the least-squares line through its actions on tasks of its training.
# experiments/learned/figures.py prints them anew.
SGD: Mapping[str, Mapping[str, float]] = {
    "lr": {
        "bias": -1.05,
        "relative_peak": -0.28,
        "above_best": -1.37,
        "grad_cosine": -0.48,
        "log_level": -0.60,
        "loss_vs_fast": 0.49,
        "fast_vs_slow": -0.60,
        "possible_decrease": -1.00,
        "below_early": -0.40,
        "budget_left": 0.02,
        "log_one_minus_momentum": 0.19,
        "far_below_first": 0.50,
        "log_depth": -1.20,
    },
    "momentum": {
        "bias": -0.62,
        "relative_peak": 0.24,
        "above_best": 0.15,
        "grad_cosine": 0.06,
        "log_level": -0.13,
        "loss_vs_fast": -0.22,
        "fast_vs_slow": -0.30,
        "possible_decrease": -0.54,
        "below_early": 0.09,
        "budget_left": -0.25,
        "log_one_minus_momentum": -1.22,
    },
}
ADAPTIVE: Mapping[str, Mapping[str, float]] = {
    "lr": {
        "bias": -2.50,
        "loss_change": -0.33,
        "loss_vs_fast": 1.05,
        "fast_vs_slow": -0.84,
        "above_best": -1.71,
        "below_first": 0.11,
        "grad_cosine": 0.25,
        "predicted_decrease": -0.04,
        "relative_step": -1.83,
        "log_level": -1.01,
        "budget_left": 0.46,
        "log_one_minus_momentum": 0.51,
        "far_below_first": 0.38,
        "log_depth": -1.50,
        "far_below_spaced": 0.50,
    },
    "momentum": {
        "bias": -1.39,
        "loss_change": -0.22,
        "loss_vs_fast": -0.13,
        "fast_vs_slow": 0.30,
        "above_best": 0.25,
        "below_first": 0.05,
        "grad_cosine": 0.03,
        "predicted_decrease": -0.15,
        "relative_step": -0.11,
        "log_level": 0.43,
        "budget_left": 0.34,
        "log_one_minus_momentum": -1.41,
    },
}


@functools.cache
def distilled() -> TrainedAgent:
    """Return the agent that multiplies the rate and 1 − β by 2 to the power of lines through its features.

    The powers are held to −1..1. Schedule and start are those of ``learned``; the initial rate is not looked at.
    """
    both = merge(_lines(SGD), _lines(ADAPTIVE))
    return replace(both, name="distilled", training={})


def _lines(lines: Mapping[str, Mapping[str, float]]) -> TrainedAgent:
    features = tuple(dict.fromkeys(name for line in lines.values() for name in line if name != "bias"))
    tensors = {
        "layers.0.weight": np.array(
            [[line.get(name, 0.0) for name in features] for line in lines.values()], np.float32
        ),
        "layers.0.bias": np.array([line["bias"] for line in lines.values()], np.float32),
    }
    needs = {**learned().needs, "features": features}
    return TrainedAgent("lines", needs, Network(tensors, "tanh", "clip", (1,) * len(lines)), "least squares", {})
