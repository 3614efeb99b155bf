"""``distilled``: what the learned network does, as one line that can be read."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np

from lrcontrol.agents.learned import learned
from lrcontrol.agents.network import Network
from lrcontrol.agents.trained import TrainedAgent

# The least-squares line through the actions of ``learned`` on tasks it was trained on, rounded; it is printed by
# experiments/learned/figures.py. Read: the step relative to the parameters is driven towards a length that grows with
# the agreement of gradients and with the budget left, and shrinks when the loss is above its best or rising; the
# further the rate has come from where it began, the less of that.
BIAS = -2.16
WEIGHTS = {
    "loss_change": 0.03,
    "loss_vs_fast": 0.68,
    "fast_vs_slow": -0.55,
    "fast_vs_best": -1.13,
    "fast_vs_first": 0.10,
    "grad_cosine": 0.54,
    "predicted_decrease": 0.05,
    "relative_step": -1.30,
    "log_level": -0.69,
    "budget_left": 0.40,
}


@functools.cache
def distilled() -> TrainedAgent:
    """Return the agent that multiplies the rate by 2 to the power of a line through its features, held to −1..1.

    Schedule and start are those of ``learned``; the initial rate is not looked at.
    """
    agent = learned()
    weights = np.array([[WEIGHTS[name] for name in agent.needs["features"]]], np.float32)
    tensors = {"layers.0.weight": weights, "layers.0.bias": np.array([BIAS], np.float32)}
    network = Network(tensors, "tanh", "clip", (1,))
    return replace(agent, name="distilled", network=network, algorithm="least squares", training={})
