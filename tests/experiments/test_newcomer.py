"""A newcomer's script with a hopeless rate and three lines more ends as well as with a well-tuned constant."""

import pytest

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
