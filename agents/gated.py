"""One agent of two: their sum, or one for SGD and one for optimizers that scale each parameter's step, such as AdamW.

In the latter the feature ``adaptive`` is the gate: under the other kind of optimizer the units of a network are driven
so far into saturation that they say −1 exactly, whatever else they see, and a unit of the gate's own takes that away
again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lrcontrol.agents.network import Network
from lrcontrol.agents.trained import TrainedAgent
from lrcontrol.envs.errors import InputError
from lrcontrol.envs.features import LIMIT
from lrcontrol.envs.values import Array

SURE = 10.0  # tanh of it is 1 in single precision
SCALE = 128.0  # a line z is 128 tanh(z / 128), to 6e-4 for z in −3..3
# Features that stand last. Where they are 0 sums round as they did before there were these two: the tables of
# experiments/learned for networks of up to three weight matrices are of agents that did not have them.
LAST = ("log_depth", "far_below_spaced")

Layers = tuple[Array, Array, Array, Array]


def _layers(agent: TrainedAgent, names: Sequence[str]) -> Layers:
    """Return weights (U, F) of an agent's units on the named features, biases, and weights (H, U) and biases after."""
    tensors = {name: np.asarray(tensor, np.float64) for name, tensor in agent.network.tensors.items()}
    weight, bias = tensors["layers.0.weight"], tensors["layers.0.bias"]
    if agent.network.depth == 1:
        output, last = SCALE * np.eye(len(weight)), np.zeros(len(weight))
        weight, bias = weight / SCALE, bias / SCALE
    else:
        output, last = tensors["layers.1.weight"], tensors["layers.1.bias"]
    spread = np.zeros((len(weight), len(names)))
    spread[:, [names.index(name) for name in agent.needs["features"]]] = weight
    return spread, bias, output, last


def _gates_for(part: Layers) -> Array:
    """Return for each unit the power of two that its sum cannot make good, with features within their limits."""
    most = np.abs(part[0]).sum(axis=1) * LIMIT + np.abs(part[1]) + SURE
    return np.asarray(2.0 ** np.ceil(np.log2(most)))


def add(base: TrainedAgent, correction: TrainedAgent) -> TrainedAgent:
    """Return the agent that answers the sum of two, held to −1..1 after the sum.

    Args:
        base: a line, or a network of one layer of tanh units, that sees no more than ``correction`` does; where it has
            fewer outputs they are the first.
        correction: another; the sum has its name, settings and training.
    """
    first, second = (_layers(agent, correction.needs["features"]) for agent in (base, correction))
    missing = len(second[3]) - len(first[3])
    tensors = {
        "layers.0.weight": np.concatenate([first[0], second[0]]),
        "layers.0.bias": np.concatenate([first[1], second[1]]),
        "layers.1.weight": np.concatenate([np.pad(first[2], ((0, missing), (0, 0))), second[2]], axis=1),
        "layers.1.bias": np.pad(first[3], (0, missing)) + second[3],
    }
    small = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
    return replace(correction, network=Network(small, "tanh", "clip", correction.network.sizes))


def merge(sgd: TrainedAgent, adaptive: TrainedAgent) -> TrainedAgent:
    """Return the agent that does what ``sgd`` does where the feature ``adaptive`` is 0, the other's where it is 1.

    Args:
        sgd: a line, or a network of one layer of tanh units.
        adaptive: another; its settings are the same but for the features it sees.

    Raises:
        InputError: their settings differ.
    """
    needs = [{name: value for name, value in agent.needs.items() if name != "features"} for agent in (sgd, adaptive)]
    if needs[0] != needs[1]:
        raise InputError(f"agents {sgd.name!r} and {adaptive.name!r} have different settings: {needs[0]}, {needs[1]}")
    seen = dict.fromkeys([*sgd.needs["features"], *adaptive.needs["features"], "adaptive"])
    names = sorted(seen, key=LAST.__contains__)
    gated = names.index("adaptive")
    first, second = _layers(sgd, names), _layers(adaptive, names)
    shut = _gates_for(second)
    first[0][:, gated] -= _gates_for(first)
    second[0][:, gated] += shut
    gate = np.zeros((1, len(names)))
    gate[0, gated] = 2.0 * SURE
    # The gate's unit says −1 under SGD, 1 otherwise; the silent units say −1 each, which their part of it takes away.
    lost = [part[2].sum(axis=1) - part[3] for part in (first, second)]  # of the outputs, while the other one speaks
    weights = np.concatenate([first[0], second[0], gate])
    biases = np.concatenate([first[1], second[1] - shut, [-SURE]])
    output = np.column_stack([first[2], second[2], (lost[0] - lost[1]) / 2.0])
    last = first[3] + second[3] + (lost[0] + lost[1]) / 2.0
    tensors = {
        "layers.0.weight": weights.astype(np.float32),
        "layers.0.bias": biases.astype(np.float32),
        "layers.1.weight": output.astype(np.float32),
        "layers.1.bias": last.astype(np.float32),
    }
    training = {"sgd": sgd.training, "adaptive": adaptive.training}
    network = Network(tensors, "tanh", "clip", sgd.network.sizes)
    return TrainedAgent("merged", needs[0] | {"features": tuple(names)}, network, sgd.algorithm, training)
