"""The policies' tanh, against torch's in double precision."""

import numpy as np
import pytest
import torch
from torch import nn

from lrcontrol.policy_tanh import Tanh, quicken


def test_values_and_slopes_are_those_of_tanh_in_double_precision():
    x = np.concatenate([np.linspace(-20.0, 20.0, 4001), np.geomspace(1e-9, 1.0, 200), [np.inf, -np.inf]])
    given = torch.tensor(x, dtype=torch.float32, requires_grad=True)
    found = Tanh()(given)
    (slopes,) = torch.autograd.grad(found.sum(), given)
    exact = np.tanh(given.detach().double().numpy())
    np.testing.assert_allclose(found.detach(), exact, atol=2e-7)
    np.testing.assert_allclose(slopes, 1.0 - exact**2, atol=4e-7)
    assert torch.isnan(Tanh()(torch.tensor([torch.nan]))).all()
    assert float(found.detach().abs().max()) <= 1.0


def test_a_policy_has_it_where_torch_s_was_and_is_saved_as_before():
    policy = nn.Sequential(nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.ReLU()), nn.Tanh())
    before, names = policy(torch.tensor([[0.3, -2.0]])), list(policy.state_dict())
    quicken(policy)
    assert [type(part) for part in (policy[0][1], policy[1])] == [Tanh, Tanh]
    assert isinstance(policy[0][2], nn.ReLU)
    assert list(policy.state_dict()) == names
    assert policy(torch.tensor([[0.3, -2.0]])).tolist()[0] == pytest.approx(before.tolist()[0], abs=1e-6)


def test_it_can_be_differentiated_twice():
    """As TRPO does."""
    x = torch.randn(5, dtype=torch.float64, requires_grad=True, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(Tanh(), x)
    assert torch.autograd.gradgradcheck(Tanh(), x)
