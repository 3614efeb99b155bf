"""The schedules against torch's own schedulers and against their formulas."""

import math

import pytest
import torch

from lrcontrol.envs import InputError, Schedule

T = 50


def torch_rates(build):
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    scheduler = build(optimizer)
    rates = []
    for _ in range(T):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("schedule", "build"),
    [
        (Schedule("constant"), lambda o: torch.optim.lr_scheduler.ConstantLR(o, factor=1.0)),
        (Schedule("cosine"), lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T)),
        (Schedule("cosine", end=0.1), lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T, eta_min=0.1)),
        (Schedule("one-cycle"), lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 1.0, T, cycle_momentum=False)),
        (Schedule("step"), lambda o: torch.optim.lr_scheduler.StepLR(o, math.ceil(T / 3), gamma=0.1)),
        (Schedule("warm-up", warmup=10), lambda o: torch.optim.lr_scheduler.LinearLR(o, 0.1, 1.0, 9)),
    ],
)
def test_schedules_are_those_of_torch(schedule, build):
    assert [schedule(t, T) for t in range(T)] == pytest.approx(torch_rates(build), rel=1e-9, abs=1e-12)


def test_inverse_square_root_falls_as_its_name_says_after_the_warm_up():
    rates = [Schedule("inverse-sqrt", warmup=10)(t, T) for t in range(T)]
    assert rates[:10] == pytest.approx([0.1 * (t + 1) for t in range(10)])
    assert rates[10:] == pytest.approx([math.sqrt(10 / (t + 1)) for t in range(10, T)])


def test_a_warm_up_below_one_is_a_share_of_the_run_and_goes_before_any_kind():
    assert Schedule("cosine", warmup=0.2).warmup_steps(T) == 10
    rates = [Schedule("cosine", warmup=0.2)(t, T) for t in range(T)]
    assert rates[:10] == pytest.approx([0.1 * (t + 1) for t in range(10)])
    assert rates[10] == 1.0
    assert rates[30] == pytest.approx(0.5)


@pytest.mark.parametrize("kind", ["constant", "warm-up", "cosine", "one-cycle", "step", "inverse-sqrt"])
@pytest.mark.parametrize("total", [1, 2, 3, 7])
def test_the_shortest_runs_have_schedules_too(kind, total):
    assert all(0.0 <= Schedule(kind)(t, total) <= 1.0 for t in range(total))


def test_bad_schedules_are_named():
    with pytest.raises(InputError, match="did you mean 'cosine'"):
        Schedule("cosin")
    with pytest.raises(InputError, match=r"gamma -1\.0"):
        Schedule("step", gamma=-1.0)
