"""The controller inside Lightning and Hugging Face's Trainer, and every example of docs/."""

import re
from pathlib import Path

import pytest
import torch
from test_controller import data, model
from torch import nn

from lrcontrol.controller import LRController
from lrcontrol.envs import InputError

DOCS = Path(__file__).resolve().parents[2] / "docs"
THEIRS = "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning", "ignore::ResourceWarning"


def quiet(test):
    """Let the libraries' own warnings pass: what they deprecate among themselves is not ours to mend."""
    for warning in THEIRS:
        test = pytest.mark.filterwarnings(warning)(test)
    return test


def run_blocks(name, folder, monkeypatch):
    monkeypatch.chdir(folder)
    names = {}
    for block in re.findall(r"^```python\n(.*?)^```", (DOCS / name).read_text(encoding="utf-8"), flags=re.M | re.S):
        exec(compile(block, name, "exec"), names)
    return names


def test_the_examples_of_the_plain_loop_run(tmp_path, monkeypatch, capsys):
    names = run_blocks("plain_loop.md", tmp_path, monkeypatch)
    losses = names["controller"].record["loss"]
    assert sum(losses[-10:]) / 10 < 0.25
    assert (tmp_path / "run.png").is_file()
    assert names["scheduler"].get_last_lr() == [names["controller"].record["lr"][3]]
    assert len((tmp_path / "run.csv").read_text(encoding="utf-8").splitlines()) == 201
    assert len(list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))) == 1
    assert (tmp_path / "again.png").is_file()


@quiet
def test_the_examples_of_lightning_run(tmp_path, monkeypatch):
    pytest.importorskip("lightning")
    names = run_blocks("lightning.md", tmp_path, monkeypatch)
    losses = names["controller"].controller.record["loss"]
    assert len(losses) == 80
    assert losses[0] > 0.5 > 0.25 > sum(losses[-10:]) / 10
    controller = names["trainer"].lr_scheduler_configs[0].scheduler
    assert controller.step_count == 40
    assert len(set(controller.record["lr"])) > 3


@quiet
def test_the_example_of_hugging_face_runs(tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    names = run_blocks("huggingface.md", tmp_path, monkeypatch)
    losses = names["controller"].record["loss"]
    assert len(losses) == 60
    assert losses[-1] < 0.5 * losses[0]


# ---- Lightning


def lightning_module(optimizer=lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.9), scheduler=None):
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = model()
            self.logged = []

        def training_step(self, batch, batch_idx):
            x, y = batch
            loss = nn.functional.cross_entropy(self.model(x), y)
            self.log("train_loss", loss)
            return {"loss": loss}

        def configure_optimizers(self):
            made = optimizer(self.parameters())
            return made if scheduler is None else [made], [scheduler(made)]

        def train_dataloader(self):
            parts = [torch.cat(part) for part in zip(*(data(step) for step in range(12)), strict=True)]
            return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*parts), batch_size=64)

    if scheduler is None:
        Module.configure_optimizers = lambda self: optimizer(self.parameters())
    return Module()


def fit(module, callbacks=(), **arguments):
    import lightning

    quietly = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    quietly |= {"enable_checkpointing": False, "max_epochs": 1}
    checkpoint = arguments.pop("ckpt_path", None)
    trainer = lightning.Trainer(callbacks=list(callbacks), **quietly | arguments)
    trainer.fit(module, ckpt_path=checkpoint)
    return trainer


def plain(agent, steps, accumulate=1, clip=None, **arguments):
    """Return the controller of the plain loop that the frameworks' runs have to equal."""
    net = model()
    opt = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, dampening=0.9)
    controller = LRController(opt, agent, **arguments)
    for step in range(steps):
        opt.zero_grad()
        losses = []
        for x, y in (data(accumulate * step + part) for part in range(accumulate)):
            loss = nn.functional.cross_entropy(net(x), y) / accumulate
            loss.backward()
            losses.append(loss.detach())
        if clip is not None:
            nn.utils.clip_grad_norm_(net.parameters(), clip)
        controller.step(sum(losses), closure=lambda x=x, y=y: nn.functional.cross_entropy(net(x), y))
        opt.step()
    return controller


@quiet
@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("agent", ["hillclimb:factor=1.5,momentum=true", "bandit:highest=0.3"])
def test_lightnings_callback_does_what_the_plain_loop_does(agent, accumulate):
    pytest.importorskip("lightning")
    from lrcontrol.controller_lightning import LightningController

    callback, module = LightningController(agent), lightning_module()
    fit(module, [callback], accumulate_grad_batches=accumulate)
    expected = plain(agent, 12 // accumulate, accumulate)
    assert callback.controller._decider.budget.total == 12 // accumulate
    for name in ("lr", "loss", "momentum"):
        assert callback.controller.record[name] == pytest.approx(expected.record[name], rel=1e-6)
    assert "log" not in module.__dict__


@quiet
def test_what_an_epoch_of_lightnings_leaves_over_counts_with_its_mean_loss_too():
    """Twelve minibatches, eight to a step: Lightning divides the last four by eight all the same."""
    pytest.importorskip("lightning")
    from lrcontrol.controller_lightning import LightningController

    callback = LightningController("constant")
    fit(lightning_module(), [callback], accumulate_grad_batches=8)
    eight, four = callback.controller.record["loss"]
    expected = plain("constant", 1, 8)
    assert eight == pytest.approx(expected.record["loss"][0], rel=1e-6)
    assert 0.8 * eight < four < 1.2 * eight


@quiet
@pytest.mark.parametrize("agent", ["hillclimb:factor=1.5", "learned"])
def test_lightnings_callback_decides_on_clipped_gradients_as_the_plain_loop_does(agent):
    pytest.importorskip("lightning")
    from lrcontrol.controller_lightning import LightningController

    callback = LightningController(agent, total_steps=12)
    fit(lightning_module(), [callback], gradient_clip_val=0.05)
    expected = plain(agent, 12, clip=0.05, total_steps=12)
    free = plain(agent, 12, total_steps=12)
    for name in ("lr", "loss"):  # clipped twice, gradients are shorter by 1e-6 over their norm again
        assert callback.controller.record[name] == pytest.approx(expected.record[name], rel=1e-3)
    assert expected.record["loss"][-1] != pytest.approx(free.record["loss"][-1], rel=1e-2)


@quiet
def test_what_is_divided_by_hand_under_lightnings_manual_optimisation_is_not_divided_again():
    pytest.importorskip("lightning")
    from lrcontrol.controller_lightning import LightningController

    module = lightning_module()

    def training_step(batch, batch_idx):
        x, y = batch
        module.manual_backward(nn.functional.cross_entropy(module.model(x), y) / 3)
        if batch_idx % 3 == 2:
            module.optimizers().step()
            module.optimizers().zero_grad()

    module.automatic_optimization, module.training_step = False, training_step
    callback = LightningController("constant")
    fit(module, [callback])
    assert callback.controller.record["loss"] == pytest.approx(plain("constant", 4, 3).record["loss"], rel=1e-6)


@quiet
def test_lightnings_checkpoint_goes_on_where_the_run_stopped(tmp_path):
    pytest.importorskip("lightning")
    from lrcontrol.controller_lightning import LightningController

    whole = LightningController("hillclimb:factor=1.5", total_steps=24)
    fit(lightning_module(), [whole], max_epochs=2)
    first = LightningController("hillclimb:factor=1.5", total_steps=24)
    trainer = fit(lightning_module(), [first], max_epochs=1)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    second = LightningController("hillclimb:factor=1.5", total_steps=24)
    fit(lightning_module(), [second], max_epochs=2, ckpt_path=tmp_path / "half.ckpt")
    assert second.controller.step_count == 24
    assert second.controller.record["lr"] == whole.controller.record["lr"]
    assert second.controller.record["loss"] == whole.controller.record["loss"]


@quiet
def test_lightning_logs_rate_and_features(tmp_path):
    pytest.importorskip("lightning")
    from lightning.pytorch.loggers import CSVLogger

    from lrcontrol.controller_lightning import LightningController

    fit(lightning_module(), [LightningController()], logger=CSVLogger(tmp_path), log_every_n_steps=1)
    (metrics,) = tmp_path.rglob("metrics.csv")
    assert "lrcontrol/lr" in metrics.read_text().splitlines()[0]


@quiet
def test_lightning_modules_that_cannot_be_controlled_are_told_why():
    pytest.importorskip("lightning")
    from lrcontrol.controller_lightning import LightningController

    module = lightning_module(scheduler=lambda opt: torch.optim.lr_scheduler.StepLR(opt, 1))
    with pytest.raises(InputError, match="returns a scheduler too"):
        fit(module, [LightningController()])


# ---- Hugging Face


def trainer_of(folder, agent, steps=8, resume=None, accumulate=1, **arguments):
    pytest.importorskip("accelerate")
    transformers = pytest.importorskip("transformers")
    from lrcontrol.controller_transformers import control_trainer

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model()

        def forward(self, x, labels):
            outputs = self.model(x)
            return {"loss": nn.functional.cross_entropy(outputs, labels), "logits": outputs}

    class InOrder(transformers.Trainer):
        def _get_train_sampler(self, *args):
            return torch.utils.data.SequentialSampler(self.train_dataset)

    batches = [data(step) for step in range(24)]
    rows = [{"x": x, "labels": y} for xs, ys in batches for x, y in zip(xs, ys, strict=True)]
    options = {"max_steps": steps, "per_device_train_batch_size": 64, "gradient_accumulation_steps": accumulate}
    options |= {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "logging_steps": 2, "max_grad_norm": 1e9}
    options |= {"save_steps": 4, "dataloader_pin_memory": False}
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, dampening=0.9)
    trainer = InOrder(
        model=net,
        args=transformers.TrainingArguments(output_dir=str(folder), **options | arguments),
        train_dataset=rows,
        optimizers=(optimizer, None),
    )
    controller = control_trainer(trainer, agent, total_steps=8)
    trainer.train(resume_from_checkpoint=resume)
    return trainer, controller


@quiet
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("agent", ["hillclimb:factor=1.5", "bandit:highest=0.3"])
def test_the_trainer_does_what_the_plain_loop_does(agent, accumulate, tmp_path):
    trainer, controller = trainer_of(tmp_path, agent, accumulate=accumulate)
    if accumulate == 1:  # the plain loop's closure repeats the last minibatch alone
        expected = plain(agent, 8, accumulate)
        assert controller.record["lr"] == pytest.approx(expected.record["lr"], rel=1e-6)
        assert controller.record["loss"] == pytest.approx(expected.record["loss"], rel=1e-5)
    assert controller.step_count == 8
    assert trainer.optimizer.param_groups[0]["lr"] == controller.lr
    logged = [entry for entry in trainer.state.log_history if "lrcontrol_lr" in entry]
    assert len(logged) == 4
    assert [entry["learning_rate"] for entry in logged] == [entry["lrcontrol_lr"] for entry in logged]


@quiet
@pytest.mark.parametrize("agent", ["hillclimb:factor=1.5", "bandit:highest=0.3"])
def test_the_trainers_checkpoint_goes_on_where_the_run_stopped(agent, tmp_path):
    _, whole = trainer_of(tmp_path / "whole", agent)
    _, resumed = trainer_of(tmp_path / "again", agent, resume=str(tmp_path / "whole" / "checkpoint-4"))
    assert resumed.step_count == 8
    assert resumed.record["lr"] == whole.record["lr"]
    assert resumed.record["loss"] == whole.record["loss"]


@quiet
def test_a_trainer_with_a_scheduler_is_refused(tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from lrcontrol.controller_transformers import control_trainer

    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    args = transformers.TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    with pytest.raises(InputError, match="has a scheduler already"):
        control_trainer(transformers.Trainer(model=net, args=args, optimizers=(optimizer, scheduler)))
