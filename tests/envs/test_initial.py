"""Initial parameters: drawn into place only where that is what the model's own function gives, to the last bit."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector

from lrcontrol.envs import mlp
from lrcontrol.envs.initial import Initial
from lrcontrol.envs.layout import Layout
from lrcontrol.envs.models import scaled

MODELS = {
    "plain": lambda: mlp(64, 20, 10),
    "deep": lambda: mlp(7, 300, 5, 3, activation="relu"),
    "scaled": lambda: scaled(lambda: mlp(64, 20, 10), 1.5),
    "second layer first": lambda: nn.Sequential(*reversed([nn.Linear(20, 10), nn.Tanh(), nn.Linear(64, 20)])),
    "no bias": lambda: nn.Sequential(nn.Linear(8, 4, bias=False), nn.Tanh(), nn.Linear(4, 2)),
}


@pytest.mark.parametrize("name", MODELS)
def test_what_is_written_is_what_the_model_begins_with(name):
    model = MODELS[name]
    layout = Layout(model())
    initial = Initial(model, layout, True)
    assert initial.is_direct == (name in ("plain", "deep", "no bias"))
    rows = torch.full((3, layout.total), torch.nan)
    before = torch.get_rng_state()
    for row, seed in zip(rows, (0, 12345, 2**63 - 1), strict=True):
        initial.write(row, seed)
    assert torch.equal(torch.get_rng_state(), before)
    for row, seed in zip(rows, (0, 12345, 2**63 - 1), strict=True):
        torch.manual_seed(seed)
        assert torch.equal(row, parameters_to_vector(model().parameters()))
    torch.set_rng_state(before)


def test_what_is_not_plain_is_built():
    layout = Layout(MODELS["plain"]())
    assert not Initial(MODELS["plain"], layout, False).is_direct
