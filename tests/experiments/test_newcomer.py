"""A newcomer's script with a hopeless rate and three lines more ends as well as with a well-tuned constant."""

import pytest
from conftest import needs_mnist

from experiments.controller import newcomer


@pytest.mark.parametrize("script", newcomer.EDITS)
def test_a_controller_takes_at_most_three_lines_of_a_script_that_knows_nothing_of_it(script):
    plain = newcomer.source(script)
    assert "LRController" not in plain
    assert 0 < newcomer.changed_lines(plain, newcomer.source(script, "learned")) <= 3


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_learned_ends_near_the_tuned_constant_from_a_millionth_and_from_ten(optimizer):
    rows = newcomer.compare("digits", optimizer, runs=1, agents=["learned"], grid=[0.0316, 0.1, 0.316])
    ratios = {(agent, lr): ratio for agent, lr, _, ratio in rows}
    for lr in (1e-6, 10.0):
        assert ratios["constant", lr] > 10.0
        assert ratios["learned", lr] <= 1.25


@pytest.mark.parametrize(("script", "best"), [("digits", 0.316), pytest.param("mnist", 0.1, marks=needs_mnist)])
def test_learned_does_so_too_where_nobody_tells_it_the_number_of_steps(script, best):
    untold = newcomer.final_loss(script, "sgd", 10.0, 0, "learned" + newcomer.UNTOLD)
    assert untold <= 1.25 * newcomer.final_loss(script, "sgd", best, 0)
