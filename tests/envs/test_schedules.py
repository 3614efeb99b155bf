"""The schedules against torch's own schedulers and against their formulas."""

import math

import pytest
import torch

from lrcontrol.envs import InputError, Schedule
from lrcontrol.envs.budget import Budget

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


def test_warm_up_stable_decay_has_its_three_parts():
    rates = [Schedule("wsd", warmup=0.1, end=0.2)(t, T) for t in range(T)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[5:41] == [1.0] * 36  # the decay is of 10 steps, from step 40 on, and would be at its end at step 50
    assert rates[41:] == pytest.approx([0.92, 0.84, 0.76, 0.68, 0.6, 0.52, 0.44, 0.36, 0.28])
    assert [Schedule("wsd", decay=4)(t, 300) for t in (0, 2, 3, 296, 297, 299)] == pytest.approx(
        [1 / 3, 1.0, 1.0, 1.0, 0.75, 0.25]  # 1 % of 300 steps are its warm-up
    )


def test_a_warm_up_longer_than_what_the_decay_leaves_shortens_the_decay():
    rates = [Schedule("wsd", warmup=6, decay=8)(t, 10) for t in range(10)]
    assert rates == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1.0, 1.0, 0.75, 0.5, 0.25])


@pytest.mark.parametrize(("kind", "needs"), [("wsd", True), ("cosine", True), ("constant", False), ("warm-up", True)])
def test_it_says_whether_it_has_to_know_the_length_of_the_run(kind, needs):
    assert Schedule(kind).needs_total is needs


@pytest.mark.parametrize("kind", ["constant", "warm-up", "cosine", "one-cycle", "step", "inverse-sqrt", "wsd"])
@pytest.mark.parametrize("total", [1, 2, 3, 7])
def test_the_shortest_runs_have_schedules_too(kind, total):
    assert all(0.0 <= Schedule(kind)(t, total) <= 1.0 for t in range(total))


def test_of_a_run_whose_length_nobody_knows_a_hundred_steps_are_said_to_be_left_up_to_a_fifth_of_it():
    unknown, cosine = Budget(None), Schedule("cosine")
    assert [unknown.moment(t) for t in (0, 100, 400, 9000)] == [(0, 100), (100, 200), (400, 500), (400, 500)]
    # A fifth before its end cos² (π 0.8 / 2) is left of a cosine, half of it at half of the run.
    rates = [unknown.multiplier(cosine, t) for t in (0, 100, 400, 9000)]
    assert rates == pytest.approx([1.0, 0.5, math.cos(0.4 * math.pi) ** 2, math.cos(0.4 * math.pi) ** 2])
    slow = Schedule("inverse-sqrt", warmup=10)  # which does not ask for the length
    assert [unknown.multiplier(slow, t) for t in (4, 39, 3999)] == pytest.approx([0.5, 0.5, 0.05])
    known = Budget(10)
    assert [known.moment(t) for t in (3, 10, 12)] == [(3, 10), (10, 10), (10, 10)]
    assert known.multiplier(cosine, 5) == pytest.approx(0.5)
    assert known.multiplier(cosine, 12) == known.multiplier(cosine, 9)


def test_bad_schedules_are_named():
    with pytest.raises(InputError, match="did you mean 'cosine'"):
        Schedule("cosin")
    with pytest.raises(InputError, match=r"gamma -1\.0"):
        Schedule("step", gamma=-1.0)
    with pytest.raises(InputError, match=r"decay -0\.1"):
        Schedule("wsd", decay=-0.1)
