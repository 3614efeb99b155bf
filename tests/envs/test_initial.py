"""Initial parameters: drawn into place only where that is what the model's own function gives, to the last bit."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector

from lrcontrol.envs import mlp
from lrcontrol.envs.initial import Initial
from lrcontrol.envs.layout import Layout
from lrcontrol.envs.models import scaled
from lrcontrol.envs.seeding import build_module

MODELS = {
    "plain": lambda: mlp(64, 20, 10),
    "deep": lambda: mlp(7, 300, 5, 3, activation="relu"),
    "scaled": lambda: scaled(lambda: mlp(64, 20, 10), 1.5),
    "second layer first": lambda: nn.Sequential(*reversed([nn.Linear(20, 10), nn.Tanh(), nn.Linear(64, 20)])),
    "no bias": lambda: nn.Sequential(nn.Linear(8, 4, bias=False), nn.Tanh(), nn.Linear(4, 2)),
}


@pytest.mark.parametrize("name", MODELS)
def test_what_is_written_is_what_the_model_begins_with(name):
    model, seeds = MODELS[name], (0, 12345, 12345, 2**63 - 1)
    layout = Layout(model())
    initial = Initial(model, layout, True)
    rows = torch.full((len(seeds), layout.total), torch.nan)
    before = torch.get_rng_state()
    initial.write(rows, seeds)
    assert torch.equal(torch.get_rng_state(), before)
    assert initial.is_direct == (name in ("plain", "deep", "no bias"))
    for row, seed in zip(rows, seeds, strict=True):
        torch.manual_seed(seed)
        assert torch.equal(row, parameters_to_vector(model().parameters()))
    torch.set_rng_state(before)


def test_a_model_that_begins_otherwise_later_is_found_out():
    gain = [1.0]
    model = lambda: scaled(MODELS["plain"], gain[0])  # noqa: E731
    initial = Initial(model, Layout(model()), True)
    rows = torch.zeros(2, Layout(model()).total)
    initial.write(rows, (3, 4))
    assert initial.is_direct
    gain[0] = 2.0
    initial.write(rows, (5, 6))
    assert not initial.is_direct
    assert torch.equal(rows[1], parameters_to_vector(build_module(model, 6).parameters()))


def test_what_is_not_plain_may_have_parameters_of_any_shape():
    model = lambda: nn.ParameterList([nn.Parameter(torch.ones(3, 0)), nn.Parameter(torch.ones(2))])  # noqa: E731
    initial = Initial(model, Layout(model()), False)
    rows = torch.zeros(2, 2)
    initial.write(rows, (0, 1))
    assert rows.tolist() == [[1.0, 1.0], [1.0, 1.0]]
