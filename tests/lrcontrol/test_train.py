"""Training agents: every algorithm end to end, its export against Stable-Baselines3, resuming, and what is refused."""

import csv
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback

import lrcontrol
from lrcontrol.agents import TrainedAgent, make_agent
from lrcontrol.algorithms import ALGORITHMS
from lrcontrol.cell_store import claim
from lrcontrol.envs import InputError, Settings, Task, TrainingVectorEnv, make_task, mlp
from lrcontrol.envs.compiled import Threads
from lrcontrol.envs.sb3 import SB3VecEnv
from lrcontrol.export import export
from lrcontrol.sb3_training import RolloutThreads, make_model, make_vec_env
from lrcontrol.train_cli import main
from lrcontrol.training import make_plan

CONTRIB = ("recurrent-ppo", "trpo", "qrdqn", "tqc", "ars")
SMALL = {
    "n_steps": 8,
    "batch_size": 16,
    "learning_starts": 16,
    "buffer_size": 500,
    "n_delta": 2,
    "n_top": 1,
    "n_eval_episodes": 4,
}
TINY = {"timesteps": 32, "num_envs": 4, "evaluations": 1}
QUICK = ("--task", "quadratic:steps=10", "--num-envs", "4", "--timesteps", "160", "--evaluations", "2")


def algorithm(name):
    reason = "sb3-contrib is not installed: pip install 'lrcontrol[rl]'"
    missing = name in CONTRIB and not _have_contrib()
    return pytest.param(name, marks=pytest.mark.skipif(missing, reason=reason))


def _have_contrib():
    try:
        import sb3_contrib  # noqa: F401
    except ImportError:
        return False
    return True


EVERY = [algorithm(name) for name in ALGORITHMS]


def small(name):
    """Return the algorithm's own parameters, cut to what a second allows."""
    return {key: SMALL[key] for key in ALGORITHMS[name].parameters if key in SMALL}


def run_main(*arguments):
    return main(arguments=[str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return the folder of an agent that was trained for a moment; copy it before changing it."""
    folder = tmp_path_factory.mktemp("trained") / "agent"
    lrcontrol.train("quadratic:steps=10", out=folder, parameters=small("ppo"), **TINY)
    return folder


def read_curve(folder):
    with (folder / "progress.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", EVERY)
def test_every_algorithm_trains_and_its_folder_is_an_agent_of_the_evaluator(name, tmp_path):
    parameters = small(name)
    agent = lrcontrol.train(
        "quadratic:steps=10",
        name,
        out=tmp_path / "a",
        timesteps=160,
        num_envs=4,
        evaluations=2,
        parameters=parameters,
    )
    assert agent.algorithm == ALGORITHMS[name].title
    assert agent.training["task"] == "quadratic:steps=10"
    spaces = json.loads((tmp_path / "a" / "agent.json").read_text())["spaces"]
    assert spaces["observation"] == {"box": [14], "limit": 10.0}
    assert spaces["action"] == ({"discrete": [9]} if "discrete" in ALGORITHMS[name].actions else {"box": [1]})
    assert agent.training["timesteps"] >= 80
    assert float(read_curve(tmp_path / "a")[-1]["score"]) >= agent.training["validation"]["score"] - 1e-5
    for part in ("agent.json", "policy.safetensors", "model.zip", "last/agent.json", "last/model.zip"):
        assert (tmp_path / "a" / part).is_file()
    results = lrcontrol.evaluate("quadratic:steps=10", [tmp_path / "a", "constant"], lr0=[0.01, 0.1], runs=2)
    assert results.agents == [str(tmp_path / "a"), "constant"]
    first = [row for row in results.traces.to_pylist() if row["agent"] != "constant" and row["step"] == 0]
    factors = np.array([row["lr"] / row["lr0"] for row in first])  # so little training may well leave a rate as it is
    if "discrete" in ALGORITHMS[name].actions:
        assert np.isclose(factors[:, None], agent.needs["multipliers"]).any(axis=1).all()
    else:
        most = 1.001 * agent.needs["max_factor"]
        assert ((factors > 1.0 / most) & (factors < most)).all()


@pytest.mark.parametrize("hyperparameters", [("lr",), ("lr", "momentum")])
@pytest.mark.parametrize("action", ["discrete", "box"])
@pytest.mark.parametrize("name", EVERY)
def test_the_exported_network_answers_as_the_model_does(name, action, hyperparameters, tmp_path):
    arguments = ("quadratic:steps=10", name, "adamw", hyperparameters, 4, None, 3, action, small(name), {})
    takes = ALGORITHMS[name]
    if action not in takes.actions or (
        action == "discrete" and len(hyperparameters) == 2 and not takes.two_dimensional
    ):
        with pytest.raises(InputError, match="choose another algorithm"):
            make_plan(*arguments)
        return
    plan = make_plan(*arguments)
    env = SB3VecEnv(TrainingVectorEnv(4, **{f: getattr(plan.settings, f) for f in plan.settings.__dataclass_fields__}))
    model = make_model(plan, env, None)
    _shake(model)
    export(model, plan.settings, "it", {}).save(tmp_path / "agent")
    agent = TrainedAgent.load(tmp_path / "agent")
    random = np.random.default_rng(0)
    state, theirs, start = None, None, np.ones(50, dtype=bool)
    chosen = []
    for _ in range(6):
        observation = random.uniform(-3.0, 3.0, (50, len(plan.settings.features))).astype(np.float32)
        action_found, state = agent.predict(observation, state, start)
        expected, theirs = model.predict(observation, theirs, start, deterministic=True)
        if plan.action == "discrete":
            np.testing.assert_array_equal(action_found, expected)
        else:
            np.testing.assert_allclose(action_found, expected, atol=3e-5)  # float32, sums of 64 terms
        start = random.uniform(size=50) < 0.3
        chosen.append(np.asarray(action_found, float).reshape(50, -1))
    assert np.concatenate(chosen).std() > 0.05  # the comparison is of actions that differ


def _shake(model):
    """Give the policy weights that make its actions differ: fresh heads are nearly constant, and ARS starts at zero."""
    import torch

    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))


def test_a_model_of_plain_stable_baselines3_runs_in_the_evaluator():
    from stable_baselines3 import PPO

    env = gymnasium.make("lrcontrol/digits-mlp-v0", multipliers=(0.5, 1.0, 2.0), steps=16, interval=2)
    model = PPO("MlpPolicy", env, n_steps=16, batch_size=16, n_epochs=1, seed=0, device="cpu").learn(32)
    agent = make_agent(model)
    assert agent.name == "ppo"
    assert agent.needs["multipliers"] == (0.5, 1.0, 2.0)
    assert not {"momentum", "weight_decay", "smoothing"} & set(agent.needs)  # which are the run's
    results = lrcontrol.evaluate(agents=[model, "constant"], lr0=[0.1], runs=2, steps=16)
    rates = np.array([row["lr"] for row in results.traces.to_pylist() if row["agent"] == "ppo"]).reshape(2, 16)
    steps = np.log2(rates[:, 1:] / rates[:, :-1])
    assert set(np.unique(steps.round(9))) <= {-1.0, 0.0, 1.0}
    assert (steps[:, ::2] == 0.0).all()  # the interval is the environment's
    with pytest.raises(InputError, match="is no agent"):
        make_agent(object())


def test_a_model_whose_observations_were_wrapped_is_refused():
    from stable_baselines3 import PPO

    env = gymnasium.wrappers.NormalizeObservation(gymnasium.make("lrcontrol/digits-mlp-v0", steps=16))
    with pytest.raises(InputError, match=r"under a gymnasium\.ObservationWrapper"):
        make_agent(PPO("MlpPolicy", env, n_steps=16, batch_size=16, device="cpu"))


def test_two_trainings_of_one_seed_are_one_and_another_seed_is_another(tmp_path):
    weights = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert run_main(*QUICK, "--seed", seed, "--out", tmp_path / name, "--set", "n_steps=8", "batch_size=16") == 0
        weights.append((tmp_path / name / "last" / "policy.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]


@pytest.mark.parametrize("algo", ["ppo", pytest.param("sac", marks=pytest.mark.slow)])
def test_a_killed_training_goes_on_from_its_checkpoint_and_says_what_was_lost(algo, tmp_path, capsys):
    out = tmp_path / "killed"
    parameters = ["n_steps=8", "batch_size=16"] if algo == "ppo" else ["batch_size=16", "learning_starts=50"]
    command = ["--algo", algo, "--task", "quadratic:steps=10", "--num-envs", "4", "--evaluations", "300"]
    command += ["--set", *parameters, "--out", str(out)]
    started = [sys.executable, "-m", "lrcontrol.train", *command, "--timesteps", "1000000"]

    def kept_and_done():
        states = [json.loads(path.read_text()) for path in (out / "checkpoints").glob("*/state.json")]
        return max((state["timesteps"] for state in states), default=0), int(read_curve(out)[-1]["timesteps"])

    with subprocess.Popen(started, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            time.sleep(0.02)
            if (out / "progress.csv").is_file() and read_curve(out):
                kept, done = kept_and_done()
                if 0 < kept < done:
                    break
        process.send_signal(signal.SIGKILL)
    kept, done = kept_and_done()
    assert 0 < kept < done
    assert run_main(*command, "--timesteps", str(done + 40)) == 0
    said = capsys.readouterr().err
    assert f"taken up at {kept:,} timesteps; {done - kept:,} done after that checkpoint are lost" in said
    assert ("the replay buffer is filled anew" in said) == (algo == "sac")
    assert int(read_curve(out)[-1]["timesteps"]) >= done + 40
    states = [json.loads(path.read_text()) for path in (out / "checkpoints").glob("*/state.json")]
    assert max(states, key=lambda state: state["timesteps"])["resumes"] == 1  # the agent itself may be of before
    assert run_main(*command, "--timesteps", str(done + 40)) == 0  # done: nothing to do


def test_an_interrupted_training_writes_a_checkpoint_and_goes_on(tmp_path, monkeypatch, capsys):
    from lrcontrol import sb3_training

    out = tmp_path / "interrupted"
    command = (*QUICK, "--set", "n_steps=8", "batch_size=16", "--out", out)
    original, calls = sb3_training._Watch._on_rollout_end, []
    reset, begun = sb3_training.SB3VecEnv.reset, []
    monkeypatch.setattr(sb3_training.SB3VecEnv, "reset", lambda self: begun.append(list(self._seeds)) or reset(self))

    def interrupt(self):
        calls.append(self.num_timesteps)
        if len(calls) == 2:
            raise KeyboardInterrupt
        original(self)

    monkeypatch.setattr(sb3_training._Watch, "_on_rollout_end", interrupt)
    assert run_main(*command) == 130
    assert "the same command goes on" in capsys.readouterr().err
    state = json.loads((next((out / "checkpoints").iterdir()) / "state.json").read_text())
    assert state["timesteps"] == 64
    assert run_main(*command) == 0
    assert "taken up at 64 timesteps; 0 done after" in capsys.readouterr().err
    assert calls[2:][0] == 96
    first, second = (seeds for seeds in begun if seeds[0] is not None)
    assert min(first) >= 1_000_000_000  # no evaluation's, whose run i has seed i
    assert min(second) == min(first) + 10_000


def test_a_policy_that_squashes_its_actions_is_exported_with_the_squashing():
    from stable_baselines3 import PPO

    settings = Settings.make({"task": "quadratic", "steps": 8, "max_factor": 2.0})
    env = SB3VecEnv(TrainingVectorEnv(4, **vars(settings), device="cpu"))
    squashed = {"squash_output": True}
    model = PPO("MlpPolicy", env, n_steps=8, batch_size=32, use_sde=True, policy_kwargs=squashed, seed=0, device="cpu")
    model.learn(64)
    agent, observation = export(model, settings, "squashed", {}), env.reset()
    np.testing.assert_allclose(
        agent.predict(observation)[0], model.predict(observation, deterministic=True)[0], atol=1e-5
    )


def test_a_policy_that_cannot_be_saved_as_an_agent_is_refused_before_it_is_trained(tmp_path):
    rows = []
    with pytest.raises(InputError, match="GELU"):
        lrcontrol.train(
            "quadratic:steps=10",
            out=tmp_path,
            parameters=small("ppo") | {"policy_kwargs": {"activation_fn": torch.nn.GELU}},
            progress=lambda *row: rows.append(row),
            **TINY,
        )
    assert not rows


def test_arguments_may_be_of_numpy_or_code_and_make_the_same_training_again(tmp_path):
    given = small("ppo") | {"policy_kwargs": {"activation_fn": torch.nn.ReLU}, "gamma": np.float64(0.9)}
    for _ in range(2):
        agent = lrcontrol.train("quadratic:steps=10", out=tmp_path, parameters=given, interval=np.int64(2), **TINY)
    assert agent.network.activation == "relu"
    other = given | {"policy_kwargs": {"activation_fn": torch.nn.Tanh}}
    with pytest.raises(InputError, match=r"activation\.ReLU'\}\} there, .*activation\.Tanh'\}\} now"):
        lrcontrol.train("quadratic:steps=10", out=tmp_path, parameters=other, interval=2, **TINY)


def test_what_limits_it_was_trained_under_an_agent_keeps(tmp_path):
    limits = {"lr_limits": (1e-4, 0.5), "features": ("log_loss", "probe_slope"), "probe_factor": 1.5}
    train_a_moment = {"parameters": small("ppo"), **TINY}
    lrcontrol.train("quadratic:steps=10", out=tmp_path, lr0_range=(1e-3, 0.1), **limits, **train_a_moment)
    needs = make_agent(tmp_path).needs
    assert (needs["lr_limits"], needs["probe_factor"]) == ((1e-4, 0.5), 1.5)
    assert "momentum_limits" not in needs


def test_several_steps_of_an_off_policy_return_leave_its_minibatches_alone():
    from lrcontrol.sb3_training import make_vec_env

    options = {"n_steps": 3, "batch_size": 100}
    plan = make_plan("quadratic:steps=8", "sac", "adamw", ("lr",), 4, None, 0, "box", options, {})
    assert make_model(plan, make_vec_env(plan), None).batch_size == 100


def test_environments_share_their_minibatches_where_asked():
    from lrcontrol.sb3_training import make_vec_env

    def plan(streams, groups=2):
        return make_plan("digits-mlp", "ppo", ("sgd", "adamw"), ("lr",), 16, groups, 0, None, {}, {}, streams)

    env = make_vec_env(plan(4))
    env.seed(0)
    env.reset()
    engines = [world.engine for part in env.venv.envs for world in part.worlds]
    assert [(engine.rows, engine.streams) for engine in engines] == [(8, 2), (8, 2)]
    assert "streams" not in plan(None).config
    assert plan(4).config["streams"] == 4
    for streams, groups in ((3, 2), (1, 2), (2, 4), (0, 2)):
        with pytest.raises(InputError, match=rf"streams {streams} is no multiple of {groups} that divides the 16"):
            plan(streams, groups)


@pytest.mark.parametrize("way", ["compiled", "torch"])
def test_compiled_steps_have_the_cores_while_a_rollout_is_collected_and_torch_has_them_otherwise(way, monkeypatch):
    if way == "compiled":
        pytest.importorskip("numba", reason="numba is not installed")
    monkeypatch.setenv("LRCONTROL_COMPILED", str(int(way == "compiled")))
    before, seen = torch.get_num_threads(), []

    class Seen(BaseCallback):
        def _on_step(self):
            seen.append((torch.get_num_threads(), Threads.count()))
            return True

    torch.set_num_threads(2)
    try:
        plan = make_plan("digits-mlp", "ppo", "sgd", ("lr",), 4, None, 0, None, {"n_steps": 8, "batch_size": 16}, {})
        model = make_model(plan, make_vec_env(plan), None)
        learn, during = model.train, []
        monkeypatch.setattr(model, "train", lambda: during.append(torch.get_num_threads()) or learn())
        model.learn(64, callback=[RolloutThreads(), Seen()])
        assert set(seen) == {(1 if way == "compiled" else 2, 2)}
        assert during == [2, 2]
        assert (torch.get_num_threads(), Threads.count()) == (2, 2)
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused_before_anything_is_written(tmp_path):
    for device, complaint in (("cuda", "finds no CUDA device"), ("tpu", "unknown device 'tpu'")):
        with pytest.raises(InputError, match=complaint):
            lrcontrol.train("quadratic", timesteps=64, num_envs=2, device=device, out=tmp_path / device)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "device",
    ["auto", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"))],
)
def test_a_training_on_any_device_goes_on_where_it_ended(tmp_path, device):
    options = {"num_envs": 4, "parameters": small("ppo"), "evaluations": 1, "device": device}
    ends = []
    for timesteps in (80, 160):
        lrcontrol.train("quadratic:steps=10", out=tmp_path, timesteps=timesteps, **options)
        ends.append(TrainedAgent.load(tmp_path / "last").training)
    assert [end["resumes"] for end in ends] == [0, 1]
    assert 80 <= ends[0]["timesteps"] < 160 <= ends[1]["timesteps"]


def test_a_task_of_ones_own_that_cannot_be_trained_is_refused_as_the_evaluator_does(tmp_path):
    x, y = torch.randn(20, 3), torch.arange(20) % 4
    for width, classes, complaint in ((5, 4, "do not run on a minibatch"), (3, 2, "2 outputs|do not run")):
        task = Task(model=lambda w=width, c=classes: mlp(w, c), train=(x, y), batch_size=10, steps=5)
        with pytest.raises(InputError, match=complaint):
            lrcontrol.train(task, timesteps=64, num_envs=2, out=tmp_path / str(width))


def test_a_training_that_is_interrupted_before_it_began_says_so(tmp_path, monkeypatch, capsys):
    from lrcontrol import sb3_training

    def interrupt(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(sb3_training.SB3VecEnv, "reset", interrupt)
    assert run_main(*QUICK, "--set", "n_steps=8", "batch_size=16", "--out", tmp_path) == 130


def test_restoring_brings_back_what_is_learned_beside_the_networks(tmp_path):
    from lrcontrol.sb3_training import restore

    plan = make_plan("quadratic:steps=10", "sac", "sgd", ("lr",), 4, None, 3, None, {"ent_coef": "auto"}, {})
    fields = {f: getattr(plan.settings, f) for f in plan.settings.__dataclass_fields__}
    model, fresh = (make_model(plan, SB3VecEnv(TrainingVectorEnv(4, **fields)), None) for _ in range(2))
    model.log_ent_coef.data.fill_(-3.5)
    (tmp_path / "last").mkdir()
    model.save(tmp_path / "last" / "model.zip")
    restore(fresh, tmp_path, 96)
    assert fresh.log_ent_coef.item() == -3.5
    assert fresh.ent_coef_optimizer.param_groups[0]["params"][0] is fresh.log_ent_coef


def test_restoring_runs_no_code_of_the_zip(tmp_path):
    """A checkpoint's weights are read without unpickling: a planted pickle stays shut, and the weights come back."""
    from lrcontrol.sb3_training import restore

    plan = make_plan("quadratic:steps=10", "ppo", "sgd", ("lr",), 4, None, 3, None, small("ppo"), {})
    fields = {f: getattr(plan.settings, f) for f in plan.settings.__dataclass_fields__}
    model = make_model(plan, SB3VecEnv(TrainingVectorEnv(4, **fields)), None)
    _shake(model)
    (tmp_path / "last").mkdir()
    model.trap = Trap(tmp_path / "sprung")
    model.save(tmp_path / "last" / "model.zip")
    fresh = make_model(plan, SB3VecEnv(TrainingVectorEnv(4, **fields)), None)
    restore(fresh, tmp_path, 96)
    assert not (tmp_path / "sprung").exists()
    assert fresh.num_timesteps == 96
    for mine, other in zip(fresh.policy.parameters(), model.policy.parameters(), strict=True):
        assert (mine == other).all()


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_loading_an_agent_opens_no_pickle(trained, tmp_path):
    folder = tmp_path / "agent"
    shutil.copytree(trained, folder)
    planted = pickle.dumps(Trap(tmp_path / "sprung"))
    for name in ("model.zip", "policy.pkl", "agent.pkl", "last/model.zip"):
        (folder / name).write_bytes(planted)
    results = lrcontrol.evaluate("quadratic:steps=10", [str(folder)], lr0=[0.1], runs=1)
    assert len(results.runs) == 1
    assert not (tmp_path / "sprung").exists()
    pickle.loads(planted)
    assert (tmp_path / "sprung").exists()  # the trap works
    with pytest.raises(InputError, match="can run code"):
        make_agent(str(folder / "model.zip"))
    (folder / "policy.safetensors").write_bytes(planted)
    with pytest.raises(InputError, match="damaged"):
        make_agent(str(folder))


def test_a_folder_may_be_given_from_the_home_directory(trained, monkeypatch):
    monkeypatch.setenv("HOME", str(trained.parent))
    monkeypatch.setenv("USERPROFILE", str(trained.parent))
    assert make_agent("~/agent").name == "~/agent"


def test_applying_a_folder_needs_no_stable_baselines3(trained, tmp_path):
    folder = tmp_path / "agent"
    shutil.copytree(trained, folder)
    code = (
        "import sys; sys.modules['stable_baselines3'] = sys.modules['sb3_contrib'] = None\n"
        "import lrcontrol; lrcontrol.evaluate('quadratic:steps=10', [sys.argv[1]], lr0=[0.1], runs=1)"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"format": 2}, "has format 2"),
        ({"features_version": 0}, "was trained on version 0 of the features"),
        ({"needs": None}, "is damaged"),
        ({"needs.features": ["log_loss", "moon_phase"]}, "moon_phase"),
        ({"needs.features": ["log_loss"]}, "reads 14 features, but it names 1"),
        ({"needs.form": "sideways"}, "unknown form"),
        ({"network.sizes": [4]}, "outputs"),
        ({"network.head": "exp"}, "head 'exp'"),
        ({"network.weights_sha256": "0"}, "damaged, or not the one"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused_with_the_reason(change, complaint, trained, tmp_path):
    lrcontrol.train(
        "quadratic:steps=10", out=tmp_path, timesteps=32, num_envs=4, evaluations=1, parameters=small("ppo")
    )
    description = json.loads((tmp_path / "agent.json").read_text())
    for path, value in change.items():
        *parents, last = path.split(".")
        place = description
        for parent in parents:
            place = place[parent]
        place[last] = value
    (tmp_path / "agent.json").write_text(json.dumps(description))
    with pytest.raises(InputError, match=complaint):
        make_agent(str(tmp_path))


def test_an_agent_refuses_an_environment_with_other_features(trained):
    agent = TrainedAgent.load(trained)
    env = gymnasium.make("lrcontrol/Training-v0", features=("log_loss", "log_lr"))
    with pytest.raises(InputError, match="reads the 14 features"):
        agent.predict(env.reset(seed=0)[0])


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--algo", "pppo"), "did you mean 'ppo'"),
        (("--algo", "dqn", "--hyperparameters", "lr,momentum"), "cannot drive lr and momentum"),
        (("--algo", "sac", "--action", "discrete"), "SAC takes box actions"),
        (("--algo", "dqn", "--action", "box"), "DQN takes discrete actions"),
        (("--task", "digit-mlp"), "did you mean 'digits-mlp'"),
        (("--timesteps", "0"), "timesteps 0"),
        (("--seed", "-1"), "seed -1"),
        (("--reward", "los"), "did you mean 'loss'"),
        (("--set", "interval=0"), "interval 0"),
        (("--set", "n_steps"), "write --set KEY=VALUE"),
        (("--lr0-range", "-1", "1"), "learning rate -1"),
        (("--num-envs", "6", "--groups", "4"), "groups 4 does not divide"),
        (("--groups", "0"), "groups 0"),
        (("--num-envs", "0"), "num_envs 0"),
        (("--set", "n_stepz=3"), "n_stepz"),
        (("--set", "n_steps=2.5"), "n_steps of PPO cannot be 2.5: float is not an instance of int"),
        (("--set", "gamma=high"), "gamma of PPO cannot be 'high'"),
        (("--set", "batch_size=0"), "batch_size of PPO is 0"),
        (("--set", "n_epochs=0"), "n_epochs of PPO is 0"),
        (("--algo", "sac", "--set", "train_freq=0"), "train_freq of SAC is 0"),
        (("--algo", "ars", "--set", "hold_bias=1.0"), "hold_bias is for policies that choose"),
        (("--set", "features=None"), "features None are not a tuple of names"),
        (("--set", "features=log_loss"), "features 'log_loss' are not a tuple of names"),
        (("--set", "multipliers=None"), "multipliers is None: leave it out"),
        (("--set", "seed_={[1]:2}"), "seed_"),
        (("--optimizer", "sgd", "adamw", "--groups", "3", "--num-envs", "12"), "3 groups cannot be shared"),
        (("--set", "learning_rate_end=low"), "learning_rate_end of PPO cannot be 'low'"),
        (("--algo", "sac", "--set", "buffer_size=1e5"), "buffer_size of SAC cannot be 100000.0"),
        (("--set", "policy=MlpPolicy"), "did you mean 'policy_kwargs'"),
        (("--set", "interval=abc"), "interval 'abc' is not a whole number"),
        (("--set", "interval=1.5"), "interval 1.5 is not a whole number"),
        (("--set", "momentum=high"), "momentum 'high' is not a number"),
        (("--set", "start=1"), "start 1 is not a pair of numbers"),
        (("--set", "lr_limits=(1e-3,)"), "lr_limits (0.001,) is not a pair"),
        (("--set", "multipliers=('a',)"), "are not a tuple of numbers"),
        (("--set", "base_schedule=3"), "base_schedule 3 is not a schedule"),
        (("--set", "smoothing=0.1"), "smoothing 0.1"),
        (("--set", "optimizer=adamw"), "say it by --optimizer"),
        (("--lr0-range", "1", "0.1"), "lr0_range (1.0, 0.1) is not low <= high"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2_and_leaves_nothing(arguments, complaint, tmp_path, capsys):
    assert run_main(*arguments, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out" / "agent.json").exists()


def test_a_training_that_was_refused_leaves_its_folder_to_the_one_that_is_not(tmp_path, capsys):
    command = (*QUICK, "--out", tmp_path / "a", "--set", "n_steps=8", "batch_size=16")
    assert run_main(*command, "learning_rate=abc") == 2
    assert run_main(*command) == 0
    capsys.readouterr()
    assert run_main(*command, "learning_rate=0.1") == 2
    assert "holds another training" in capsys.readouterr().err


def test_a_folder_is_of_one_task_and_of_one_command_at_a_time(tmp_path):
    arguments = {"timesteps": 32, "num_envs": 4, "evaluations": 1, "parameters": small("ppo")}
    task = make_task("quadratic:steps=10")
    lrcontrol.train("quadratic:conditioning=2,steps=10", out=tmp_path / "a", **arguments)
    lrcontrol.train(replace(task, name="mine"), out=tmp_path / "b", **arguments)
    with pytest.raises(InputError, match=r"holds another training .task: quadratic:conditioning=2,steps=10 there"):
        lrcontrol.train("quadratic:conditioning=1000,steps=10", out=tmp_path / "a", **arguments)
    with pytest.raises(InputError, match=r"holds another training .contents"):
        lrcontrol.train(replace(task, name="mine", steps=20), out=tmp_path / "b", **arguments)
    with claim(tmp_path / "b"), pytest.raises(InputError, match="another command is at work"):
        lrcontrol.train(replace(task, name="mine"), out=tmp_path / "b", **arguments)
    lrcontrol.train(replace(task, name="mine"), out=tmp_path / "b", **arguments)


@pytest.mark.skipif(not _have_contrib(), reason="the extra rl is not installed")
def test_tensorboards_files_and_the_learning_curve_are_written_when_asked_for(tmp_path):
    command = (*QUICK, "--set", "n_steps=8", "batch_size=16")
    assert run_main(*command, "--tensorboard", "--out", tmp_path / "a") == 0
    assert list((tmp_path / "a").glob("tensorboard/*/events.out.tfevents.*"))
    assert (tmp_path / "a" / "progress.png").read_bytes().startswith(b"\x89PNG")
    assert run_main(*command, "--out", tmp_path / "b") == 0
    assert not (tmp_path / "b" / "tensorboard").exists()


def test_validation_is_on_runs_and_tasks_that_training_never_sees(tmp_path):
    from lrcontrol.envs.distributions import find_tasks
    from lrcontrol.validation import FIRST_SEED, Validation

    plan = make_plan("random-digits", "ppo", "sgd", ("lr",), 8, None, 0, None, small("ppo"), {})
    assert plan.groups == 8
    validation = Validation(plan.tasks, [replace(plan.settings, lr0_range=(1e-3, 1.0))], 0)
    assert validation.names == [f"random-digits:index={index},held_out=true" for index in range(6)]
    env = TrainingVectorEnv(8, groups=8, task=find_tasks("random-digits"))
    env.reset(seed=FIRST_SEED // 2)
    assert not {world.task.name for world in env.worlds} & set(validation.names)
    assert "test" not in Path(lrcontrol.validation.__file__).read_text(encoding="utf-8")


def test_the_score_is_half_the_mean_and_half_the_worst_of_the_log_losses():
    from lrcontrol.validation import RUNS, Validation

    plan = make_plan("quadratic:steps=20", "ppo", "sgd", ("lr",), 8, None, 0, None, small("ppo"), {})
    score = Validation(plan.tasks, [replace(plan.settings, lr0_range=(1e-4, 1.0))], 3).measure(make_agent("constant"))
    rates = [float(rate) for rate in np.geomspace(1e-4, 1.0, 8)]
    results = lrcontrol.evaluate("quadratic:steps=20", ["constant"], lr0=rates, runs=RUNS, seed=2_000_003_000)
    losses = np.array(results.summary["train_loss_mean"].to_pylist())
    assert score.mean_loss == pytest.approx(losses.mean(), rel=1e-5)
    assert score.worst_loss == pytest.approx(losses.max(), rel=1e-5)
    assert score.score == pytest.approx(0.5 * np.log(losses).mean() + 0.5 * np.log(losses).max(), rel=1e-5)


def test_a_folder_of_another_training_is_refused_with_the_difference(tmp_path, capsys):
    out = tmp_path / "out"
    assert run_main(*QUICK, "--set", "n_steps=8", "batch_size=16", "--out", out) == 0
    assert run_main(*QUICK, "--set", "n_steps=8", "batch_size=16", "--seed", "5", "--out", out) == 2
    assert "seed: 0 there, 5 now" in capsys.readouterr().err
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").touch()
    assert run_main(*QUICK, "--out", tmp_path / "thesis") == 2
    assert "holds no training" in capsys.readouterr().err


def test_one_agent_is_trained_and_validated_on_several_optimizers(tmp_path):
    agent = lrcontrol.train(
        "quadratic:steps=10", out=tmp_path / "both", optimizer=("sgd", "adamw"), timesteps=80, num_envs=4,
        parameters=small("ppo"), evaluations=1, start=(0.1, 10.0), base_schedule="one-cycle",
    )  # fmt: skip
    assert agent.training["optimizer"] == "sgd+adamw"
    assert agent.needs["start"] == pytest.approx((1.0, 1.0))  # the middle of what it was trained from
    assert agent.needs["base_schedule"] == lrcontrol.Schedule("one-cycle")
    with pytest.raises(InputError, match="cannot be shared by 2 optimizers"):
        make_plan("quadratic", "ppo", ("sgd", "adamw"), ("lr",), 3, None, 0, None, {}, {})


def test_a_policy_may_begin_by_holding():
    parameters = small("ppo") | {"hold_bias": 5.0}
    plan = make_plan("quadratic:steps=10", "ppo", "sgd", ("lr", "momentum"), 4, None, 3, None, parameters, {})
    model = make_model(plan, SB3VecEnv(TrainingVectorEnv(4, **vars(plan.settings))), None)
    hold = plan.settings.multipliers.index(1.0)
    observation = np.random.default_rng(0).normal(size=(50, len(plan.settings.features))).astype(np.float32)
    assert (model.predict(observation, deterministic=True)[0] == hold).all()
    plan = make_plan("quadratic:steps=10", "ppo", "sgd", ("lr",), 4, None, 3, "box", parameters, {})
    with pytest.raises(InputError, match="hold_bias is for policies"):
        make_model(plan, SB3VecEnv(TrainingVectorEnv(4, **vars(plan.settings))), None)
