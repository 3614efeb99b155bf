"""Augmented random search (Mania, Guy and Recht 2018, algorithm 1, V1-t), asked and told as CMA-ES is."""

from __future__ import annotations

import numpy as np


class RandomSearch:
    """Moves along the better of two opposite candidates, in proportion to how much better it is.

    Args:
        mean: where it begins (n,).
        sigma: how far candidates are from there in each number, the paper's ν.
        step_size: the paper's α; the step is divided by the spread of what the used candidates were worth.
        population_size: candidates of a generation, even: twice the paper's N. Its b, the directions that are
            used, is half of N.
        seed: of the directions.
    """

    def __init__(self, mean: np.ndarray, sigma: float, *, step_size: float, population_size: int, seed: int) -> None:
        self._mean, self._sigma, self._C = mean, sigma, np.eye(len(mean))
        self.step_size, self.directions = step_size, population_size // 2
        self.random, self.waiting = np.random.default_rng(seed), list[np.ndarray]()

    def ask(self) -> np.ndarray:
        """Return a candidate (n,), and the next time the one opposite to it."""
        if self.waiting:
            return self.waiting.pop()
        direction = self._sigma * self.random.standard_normal(len(self._mean))
        self.waiting.append(self._mean - direction)
        return self._mean + direction

    def tell(self, candidates: list[tuple[np.ndarray, float]]) -> None:
        """Take a step, given candidates and their values, opposite ones side by side; lower is better."""
        points = np.array([point for point, _ in candidates]).reshape(self.directions, 2, -1)
        values = np.array([value for _, value in candidates]).reshape(self.directions, 2)
        used = np.argsort(values.min(axis=1))[: max(self.directions // 2, 1)]
        directions = (points[used, 0] - points[used, 1]) / (2.0 * self._sigma)
        gains = (values[used, 1] - values[used, 0]) / max(values[used].std(), 1e-12)
        self._mean = self._mean + self.step_size * (gains[:, None] * directions).mean(axis=0)
