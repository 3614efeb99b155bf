"""From a model of Stable-Baselines3 to an agent that needs neither it nor pickle."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lrcontrol.agents.network import Network
from lrcontrol.agents.trained import TrainedAgent, needs_of
from lrcontrol.envs.errors import InputError
from lrcontrol.envs.settings import Settings

if TYPE_CHECKING:
    from torch import nn

_ACTIVATIONS = {"Tanh": "tanh", "ReLU": "relu"}


def export(model: Any, settings: Settings, name: str, training: Mapping[str, Any]) -> TrainedAgent:
    """Return the agent of a model trained with ``settings``; its actions are the model's deterministic ones.

    Where training drew initial rates from a ``start``, the agent's is the middle of it.

    Args:
        model: of one of the classes of ``lrcontrol.algorithms``, with an MLP policy.
        settings: of the environment it was trained on.
        name: what tables call it.
        training: where it comes from; must go into JSON.

    Raises:
        InputError: a policy that this does not know how to read.
    """
    policy, algorithm = model.policy, type(model).__name__
    discrete = settings.multipliers is not None
    head = "argmax" if discrete else "clip"
    lstm = None
    if hasattr(policy, "quantile_net"):
        layers = _linear(policy.quantile_net.quantile_net)
        layers[-1] = _mean_of_quantiles(*layers[-1], policy.n_quantiles)
        modules = policy.quantile_net.quantile_net
    elif hasattr(policy, "q_net"):
        modules = policy.q_net.q_net
        layers = _linear(modules)
    elif hasattr(policy, "mlp_extractor"):  # PPO, A2C, TRPO, RecurrentPPO
        modules = policy.mlp_extractor.policy_net
        layers = [*_linear(modules), *_linear([policy.action_net])]
        lstm = getattr(policy, "lstm_actor", None)
        head = "tanh" if getattr(policy, "squash_output", False) else head
    elif hasattr(policy, "actor") and hasattr(policy.actor, "latent_pi"):  # SAC, TQC
        modules, head = policy.actor.latent_pi, "tanh"
        layers = [*_linear(modules), *_linear([policy.actor.mu])]
    elif hasattr(policy, "actor"):  # TD3
        modules, head = policy.actor.mu, "tanh"
        layers = _linear(modules)
    elif hasattr(policy, "action_net"):  # ARS
        modules = policy.action_net
        layers = _linear(modules)
        head = "tanh" if policy.squash_output else head
    else:
        raise InputError(f"a policy of {type(policy).__name__} ({algorithm}) cannot be exported")
    tensors = {} if lstm is None else _lstm(lstm)
    for number, (weight, bias) in enumerate(layers):
        tensors[f"layers.{number}.weight"] = weight
        if bias is not None:
            tensors[f"layers.{number}.bias"] = bias
    dimensions = len(settings.hyperparameters)
    sizes = (len(settings.multipliers),) * dimensions if settings.multipliers is not None else (1,) * dimensions
    network = Network(tensors, _activation(modules, algorithm), head, sizes)
    needs = needs_of(settings)
    if settings.start is not None:
        centre = math.sqrt(settings.start[0] * settings.start[1])
        needs["start"] = (centre, centre)
    return TrainedAgent(name, needs, network, algorithm, dict(training))


def _array(tensor: Any) -> NDArray[np.float32]:
    return np.asarray(tensor.detach().cpu().numpy(), np.float32).copy()


def _linear(modules: Any) -> list[tuple[NDArray[np.float32], NDArray[np.float32] | None]]:
    """Return weight and bias of the fully connected layers among the modules."""
    from torch import nn

    layers = [module for module in modules if isinstance(module, nn.Linear)]
    return [(_array(layer.weight), None if layer.bias is None else _array(layer.bias)) for layer in layers]


def _mean_of_quantiles(
    weight: NDArray[np.float32], bias: NDArray[np.float32] | None, quantiles: int
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Return the last layer whose outputs are the means over the quantiles, which stand outermost."""
    mean = weight.reshape(quantiles, -1, weight.shape[1]).mean(axis=0)
    return mean, None if bias is None else bias.reshape(quantiles, -1).mean(axis=0)


def _lstm(lstm: nn.LSTM) -> dict[str, NDArray[np.float32]]:
    if lstm.num_layers != 1:
        raise InputError(f"an LSTM of {lstm.num_layers} layers cannot be exported: use n_lstm_layers=1")
    return {
        "lstm.weight_ih": _array(lstm.weight_ih_l0),
        "lstm.weight_hh": _array(lstm.weight_hh_l0),
        "lstm.bias": _array(lstm.bias_ih_l0) + _array(lstm.bias_hh_l0),
    }


def _activation(modules: Any, algorithm: str) -> str:
    found = {type(module).__name__ for module in modules} - {"Linear", "Flatten"}
    hidden = [name for name in found if name in _ACTIVATIONS]
    if found - set(_ACTIVATIONS):
        raise InputError(f"{algorithm}: activation {', '.join(sorted(found - set(_ACTIVATIONS)))} cannot be exported")
    if "ReLU" in hidden:  # TD3 and ARS end with the tanh that the head takes
        return "relu"
    return "tanh"
