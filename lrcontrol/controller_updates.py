"""Which way a torch optimizer is about to step, from its state and the gradients, without stepping.

The update u is what the optimizer will step along, divided by the reference rate, θ ← θ − lr · u:

- SGD: u = v, its momentum buffer after the step, v ← β v + (1 − dampening) g, or g where there is no momentum; with
  Nesterov g + β v. Only with ``dampening`` equal to ``momentum``, the environment's form, does lr keep its scale
  whatever β is.
- Adam and AdamW: the bias-corrected m / (sqrt(s) + ε), AMSGrad and either kind of weight decay included.
- Any other optimizer, and subclasses of these, which may step otherwise: what it does in a rehearsal
  (``lrcontrol.controller_rehearsal``); u = g where there can be none.

A group with a rate of its own enters u with the ratio of that rate to the reference.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from lrcontrol.controller_packs import Pack
from lrcontrol.controller_rates import Group, gain_of, moved
from lrcontrol.controller_rehearsal import ELEMENTWISE

MEMORIES = ("momentum_buffer", "exp_avg")


def kind_of(optimizer: Optimizer) -> str:
    """Return ``sgd``, ``adam``, ``elementwise`` or ``unknown``: how its update is found."""
    kinds: dict[type[Optimizer], str] = {SGD: "sgd", Adam: "adam", AdamW: "adam"}
    kinds |= dict.fromkeys(ELEMENTWISE, "elementwise")
    return kinds.get(type(optimizer), "unknown")


def sgd_weights(pack: Pack) -> tuple[float, float]:
    """Return (a, b) of SGD's u = a · v + b · g, v being the buffer before the step."""
    momentum = float(pack.group["momentum"])
    nesterov = bool(pack.group["nesterov"])
    if momentum == 0.0:
        return 0.0, 1.0
    if "momentum_buffer" not in pack:
        return 0.0, 1.0 + momentum if nesterov else 1.0
    new = 1.0 - float(pack.group["dampening"])
    return (momentum * momentum, 1.0 + momentum * new) if nesterov else (momentum, new)


def update_of(kind: str, pack: Pack) -> tuple[Tensor, float]:
    """Return (w, c) with u = c · w for a pack that steps by a formula, or was seen; w may be the gradient itself.

    What the pack has laid out of parameters and of Adam's state may be written over.
    """
    if kind == "unknown":
        return (pack["update"], 1.0) if "update" in pack else (pack["grad"], pack.first.ratio)
    grad = pack["grad"]
    decay = float(pack.group["weight_decay"])
    decoupled = bool(pack.group.get("decoupled_weight_decay", False))
    if decay and not decoupled:
        grad = grad.add(pack["param"], alpha=decay)
    if kind == "adam" and pack.laid_out and grad.is_cpu and "exp_avg" in pack:
        return _fused_adam(pack, grad, decay if decoupled else 0.0), pack.first.ratio
    update, factor = _sgd(pack, grad) if kind == "sgd" else _adam(pack, grad)
    if decay and decoupled:
        update = update.add_(pack["param"], alpha=decay / factor)
    return update, factor * pack.first.ratio


def _sgd(pack: Pack, grad: Tensor) -> tuple[Tensor, float]:
    old, new = sgd_weights(pack)
    if old == 0.0:
        return grad, new
    return torch.mul(pack["momentum_buffer"], old).add_(grad, alpha=new), 1.0


def _adam(pack: Pack, grad: Tensor) -> tuple[Tensor, float]:
    beta1, beta2 = (float(beta) for beta in pack.group["betas"])
    unbias = 1.0 / (1.0 - beta2**pack.first.step)
    if "exp_avg" in pack:
        first = torch.lerp(pack["exp_avg"], grad, 1.0 - beta1)
        root = torch.mul(pack["exp_avg_sq"], beta2 * unbias)
        root.addcmul_(grad, grad, value=(1.0 - beta2) * unbias)
    else:
        first = grad * (1.0 - beta1)
        root = (grad * grad).mul_((1.0 - beta2) * unbias)
    if pack.group["amsgrad"] and "max_exp_avg_sq" in pack:
        torch.maximum(root, pack["max_exp_avg_sq"] * unbias, out=root)
    root.sqrt_().add_(float(pack.group["eps"]))
    return first.div_(root), 1.0 / (1.0 - beta1**pack.first.step)


def _fused_adam(pack: Pack, grad: Tensor, decay: float) -> Tensor:
    """Return u, from one call of torch's kernel, which for a few thousand numbers takes half of the time of seven.

    Its step is θ ← (1 − lr λ) θ − lr u; with lr = −1 and λ = decay − 1 it leaves u + decay · θ in the copy of θ, which
    is made 0 where nothing decays: 0 times what is not finite is not 0.
    """
    update, amsgrad = pack["param"], bool(pack.group["amsgrad"]) and "max_exp_avg_sq" in pack
    update = update if decay else update.zero_()
    beta1, beta2 = (float(beta) for beta in pack.group["betas"])
    torch._fused_adamw_(
        [update],
        [grad],
        [pack["exp_avg"]],
        [pack["exp_avg_sq"]],
        [pack["max_exp_avg_sq"]] if amsgrad else [],
        [torch.tensor(pack.first.step, dtype=torch.float32, device="cpu")],
        amsgrad=amsgrad,
        maximize=False,
        beta1=beta1,
        beta2=beta2,
        lr=-1.0,
        weight_decay=decay - 1.0,
        eps=float(pack.group["eps"]),
    )
    return update


def with_momentum(group: Group, momentum: float) -> Group:
    """Return a copy of a group with another momentum, as Rates would write it."""
    return group | moved(group, momentum, gain_of(group))
