"""The Gymnasium environments: one training run, and many at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from lrcontrol.envs.errors import InputError, unknown
from lrcontrol.envs.features import LIMIT
from lrcontrol.envs.groups import EpisodeSeeds, Group
from lrcontrol.envs.settings import Settings
from lrcontrol.envs.values import Array
from lrcontrol.envs.world import Observation, World

Action: TypeAlias = Any  # an index, indices, or numbers in −1..1, by the settings
Info: TypeAlias = dict[str, Any]


def spaces(settings: Settings) -> tuple[gymnasium.Space[Any], gymnasium.Space[Any]]:
    """Return the observation and the action space of one training run."""
    observation = gymnasium.spaces.Box(-LIMIT, LIMIT, (len(settings.features),), np.float32)
    dimensions = len(settings.hyperparameters)
    if settings.multipliers is None:
        return observation, gymnasium.spaces.Box(-1.0, 1.0, (dimensions,), np.float32)
    if dimensions == 1:
        return observation, gymnasium.spaces.Discrete(len(settings.multipliers))
    return observation, gymnasium.spaces.MultiDiscrete([len(settings.multipliers)] * dimensions)


def _initial_rate(options: dict[str, Any] | None) -> Any:
    for name in options or {}:
        if name != "lr0":
            raise unknown("reset option", name, ["lr0"])
    return (options or {}).get("lr0")


class TrainingEnv(gymnasium.Env[Observation, Action]):
    """One training run.

    ## Description
    A model is trained with minibatches by SGD or AdamW. Before each optimizer step (every ``interval``-th, if set) the
    agent sees how the run is going and multiplies the learning rate, and the momentum if asked.

    ## Action Space
    ``Box(-1, 1, (H,))``, H the number of ``hyperparameters``: a stands for the multiplier ``max_factor ** a``. With
    ``multipliers=(…)``, ``Discrete(n)``, or ``MultiDiscrete([n, n])`` for H = 2: an index into them.
    ``form="recursive"`` multiplies the present value, ``form="anchored"`` the initial value times ``base_schedule``,
    ``form="absolute"`` that schedule alone. Momentum β is moved through 1 − β.

    ## Observation Space
    ``Box(-10, 10, (F,), float32)``, the features that ``features`` names; by default

    | Num | Feature | Meaning |
    |-----|---------|---------|
    | 0 | log_loss | log L |
    | 1 | loss_change | log of L over its last value |
    | 2 | loss_vs_fast | log of L over its fast average |
    | 3 | fast_vs_slow | log of the fast over the slow average |
    | 4 | fast_vs_best | log of the fast average over its best |
    | 5 | fast_vs_first | log of the fast average over the first loss |
    | 6 | grad_cosine | cosine of g and the momentum buffer v (the last gradient without momentum) |
    | 7 | predicted_decrease | log10(lr g·u / L) |
    | 8 | relative_step | log10(lr ‖u‖ / ‖θ‖) |
    | 9 | grad_sq_over_loss | log10(‖g‖² / L) |
    | 10 | budget_left | share of the training steps left |
    | 11 | log_steps_left | log10(1 + steps left) |
    | 12 | log_lr | log10 lr |
    | 13 | log_one_minus_momentum | log10(1 − β) |

    ``log_level``, ``possible_decrease``, ``relative_peak`` and ``adaptive`` may be added
    (``lrcontrol.envs.FEATURES`` says what they are), and ``probe_slope`` and ``probe_change``: these two cost two
    forward passes a decision, and ``probe_momentum_slope`` a third.

    ## Rewards
    The negative training loss on the next minibatch, averaged over the interval (``reward="loss"``). ``"log-loss"`` is
    the negative logarithm of it, ``"log-loss-change"`` the fall of the log loss over the interval,
    ``"fast-loss-change"`` that of its fast average, and ``"validation-loss"`` nothing until the end, then the negative
    log loss on ``validation_share`` of the training rows, which are kept from training. ``reward_scale`` multiplies.
    Losses are capped at ten times the first one; a run whose loss is no longer finite is frozen and paid that cap to
    the end of the budget.

    ## Starting State
    ``reset(seed=…)`` fixes initial parameters, order of the data and initial learning rate; the latter is drawn
    log-uniformly from ``lr0_range`` unless ``options={"lr0": …}`` gives it. Resets without a seed count up episodes.

    ## Episode End
    Terminates when the budget is used up: ``steps`` training steps. Never truncates.

    ## Arguments
    ``task`` and every other field of ``lrcontrol.envs.Settings``, and ``device``:

    >>> import gymnasium, lrcontrol.envs
    >>> env = gymnasium.make("lrcontrol/Training-v0", task="quadratic", multipliers=(0.5, 1.0, 2.0), reward="log-loss")
    >>> observation, info = env.reset(seed=7, options={"lr0": 0.1})
    >>> observation, reward, terminated, truncated, info = env.step(2)
    >>> float(info["lr"])
    0.2

    ## Version History
    * v0: first version
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (Gymnasium's own declaration)

    def __init__(self, *, device: str = "auto", render_mode: None = None, **settings: Any) -> None:
        self.settings = Settings.make(settings)
        self._group = Group(self.settings, 1, None, device)
        self.observation_space, self.action_space = spaces(self.settings)
        self.render_mode = render_mode
        self._seeds = EpisodeSeeds(1)

    @property
    def world(self) -> World:
        """The run's engine, parameters and history."""
        return self._group.world

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, Info]:
        """Start a run; see the class for ``seed`` and ``options={"lr0": …}``."""
        super().reset(seed=seed)
        observation = self._group.start(self._seeds.start(seed), _initial_rate(options))
        return observation[0], _row(_info(self.world), 0)

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, Info]:
        """Apply the action and train until the next decision."""
        observation, reward, over = self.world.step(np.asarray(action)[None])
        return observation[0], float(reward[0]), over, False, _row(_info(self.world), 0)


class TrainingVectorEnv(gymnasium.vector.VectorEnv[Observation, Action, NDArray[Any]]):
    """Many training runs stepped at once, with same-step autoreset; row i of a reset with seed s has the seed s + i.

    Spaces, rewards, starting state and arguments are those of ``TrainingEnv``; also

    Args:
        num_envs: N, the number of runs.
        groups: number of groups of N / groups runs that stand side by side; runs of a group share their task, and where
            tasks are drawn, each group draws its own for each of its episodes.
        streams: distinct orders of the data, dividing N, divided by the groups. By default each run has its own, as the
            single environment of its seed would; ``streams=groups`` shares one minibatch a step in each group and is
            the fastest.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        settings: the fields of ``lrcontrol.envs.Settings``.
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": []}  # noqa: RUF012 (as above)

    def __init__(
        self,
        num_envs: int = 1,
        *,
        groups: int = 1,
        streams: int | None = None,
        device: str = "auto",
        render_mode: None = None,
        **settings: Any,
    ) -> None:
        self.settings = Settings.make(settings)
        self.num_envs = num_envs
        if num_envs < 1 or groups < 1:
            raise InputError(f"num_envs {num_envs} and groups {groups} must be positive")
        if num_envs % groups:
            raise InputError(f"groups {groups} does not divide the {num_envs} environments")
        if streams is not None and (streams < 1 or streams % groups or num_envs % streams):
            raise InputError(f"streams {streams} does not divide the {num_envs} replicas, or not into {groups} groups")
        rows, per_group = num_envs // groups, None if streams is None else streams // groups
        self._groups = [Group(self.settings, rows, per_group, device) for _ in range(groups)]
        self._rows = [slice(first, first + rows) for first in range(0, num_envs, rows)]
        self.single_observation_space, self.single_action_space = spaces(self.settings)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.render_mode = render_mode
        self._seeds = EpisodeSeeds(num_envs)

    @property
    def worlds(self) -> list[World]:
        """The groups' engines, parameters and histories."""
        return [group.world for group in self._groups]

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, Info]:
        """Start all runs anew; ``options={"lr0": …}`` takes one initial rate or one for each run."""
        if isinstance(seed, int):
            super().reset(seed=seed)  # np_random, which the runs themselves do not draw from
        seeds, lr0 = self._seeds.start(seed), _initial_rate(options)
        if lr0 is not None:
            lr0 = np.broadcast_to(np.asarray(lr0, dtype=np.float64), (self.num_envs,))
        parts = [
            group.start(seeds[rows], None if lr0 is None else lr0[rows])
            for group, rows in zip(self._groups, self._rows, strict=True)
        ]
        return np.concatenate(parts), _present(self._info(), np.ones(self.num_envs, dtype=bool))

    def step(self, actions: Action) -> tuple[Observation, Array, NDArray[Any], NDArray[Any], Info]:
        """Apply the actions and train until the next decision; where a group's budget is used up, its next runs begin.

        The last observations and infos of the runs that ended are ``infos["final_obs"]`` and ``infos["final_info"]``.
        """
        actions = np.asarray(actions)
        if actions.shape[:1] != (self.num_envs,):
            raise InputError(f"actions of shape {actions.shape} are not one for each of {self.num_envs} environments")
        results = [world.step(actions[rows]) for world, rows in zip(self.worlds, self._rows, strict=True)]
        observation, reward = (np.concatenate([result[part] for result in results]) for part in (0, 1))
        terminated = np.repeat([over for _, _, over in results], self.num_envs // len(results))
        infos, final = self._info(), {}
        if terminated.any():
            final_observations = np.full(self.num_envs, None, dtype=object)
            for row in np.flatnonzero(terminated):
                final_observations[row] = observation[row].copy()
            final = {"final_obs": final_observations, "final_info": _present(infos, terminated)}
            final |= {f"_{name}": terminated.copy() for name in tuple(final)}
            for number, (group, rows) in enumerate(zip(self._groups, self._rows, strict=True)):
                if results[number][2]:
                    observation[rows] = group.start(self._seeds.next(rows), None)
            infos = self._info()
        infos = _present(infos, np.ones(self.num_envs, dtype=bool)) | final
        return observation, reward, terminated, np.zeros(self.num_envs, dtype=bool), infos

    def _info(self) -> dict[str, NDArray[Any]]:
        parts = [_info(world) for world in self.worlds]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _info(world: World) -> dict[str, NDArray[Any]]:
    return {
        "lr": world.lr.copy(),
        "momentum": world.momentum.copy(),
        "loss": world.engine.losses.copy(),
        "diverged": world.diverged,
    }


def _row(info: dict[str, NDArray[Any]], row: int) -> Info:
    return {name: values[row] for name, values in info.items()}


def _present(info: dict[str, NDArray[Any]], rows: NDArray[np.bool_]) -> Info:
    """Return infos in Gymnasium's vector form: zero where a row has none, and beside each entry which rows have it."""
    shown = {name: np.where(rows, values, np.zeros_like(values)) for name, values in info.items()}
    return shown | {f"_{name}": rows.copy() for name in info}
