"""Training scripts with a hopeless learning rate, and the same scripts with a controller: what is left of the loss.

    python -m experiments.controller.newcomer [--scripts digits mnist lightning_module finetune] [--runs 2]

The scripts are in scripts/; they know nothing of controllers. ``EDITS`` are the lines that a controller takes, at most
three; the experiment puts them in, and stops if they are more. The well-tuned constant is the best of half-decades from
1e-6 to 10. Ten minutes on one core. Writes newcomer.csv beside this file, where rows of other scripts stay: mean final
training losses, and their ratio to that constant's.
"""

import argparse
import contextlib
import difflib
import io
import math
import re
import statistics
import sys
import warnings
from pathlib import Path

from experiments.tables import write_beside

HERE = Path(__file__).parent
GRID = [10.0 ** (half / 2.0) for half in range(-12, 3)]
BAD = (1e-6, 10.0)
UNTOLD = ", no total_steps"  # after an agent that is not told how many steps there will be
AGENTS = (
    "learned",
    "learned" + UNTOLD,
    "learned:momentum=false",
    "schedule:kind=one-cycle,start=0.3",
    "hillclimb:factor=2",
)
OPTIMIZERS = {"digits": ("sgd", "adamw"), "mnist": ("sgd", "adamw"), "lightning_module": ("sgd", "adamw")}

# For each script, lines as they are and as they are with a controller; AGENT stands for the agent's spelling.
EDITS = {
    "digits": [
        ("import torch\n", "import torch\nimport lrcontrol\n"),
        (
            "    for _ in range(args.steps):\n",
            "    controller = lrcontrol.LRController(optimizer, AGENT, total_steps=args.steps)\n",
        ),
        (
            "        optimizer.step()\n",
            "        controller.step(loss, closure=lambda: F.cross_entropy(model(images[rows]), labels[rows]))\n",
        ),
    ],
    "mnist": [
        ("import torch\n", "import torch\nimport lrcontrol\n"),
        (
            "    model.train()\n",
            "    controller = lrcontrol.LRController(optimizer, AGENT, total_steps=args.epochs * len(loader))\n",
        ),
        (
            "            optimizer.step()\n",
            "            controller.step(loss, closure=lambda: F.nll_loss(model(data), target))\n",
        ),
    ],
    "lightning_module": [
        ("import torch\n", "import torch\nfrom lrcontrol.controller_lightning import LightningController\n"),
        ("        logger=False,\n", "        callbacks=[LightningController(AGENT)],\n"),
    ],
    "finetune": [
        ("import tempfile\n", "import tempfile\nfrom lrcontrol.controller_transformers import control_trainer\n"),
        ("        trainer.train()\n", "        control_trainer(trainer, AGENT)\n"),
    ],
}


def source(script, agent=None):
    """Return a script's text, with a controller where an agent is given."""
    plain = (HERE / "scripts" / f"{script}.py").read_text(encoding="utf-8")
    if agent is None:
        return plain
    text = plain
    for line, added in EDITS[script]:
        assert text.count("\n" + line) == 1, f"{script}: {line!r} is not there once"
        if agent.endswith(UNTOLD):
            added = re.sub(r", total_steps=.*", ")", added)
        added = added.replace("AGENT", repr(agent.removesuffix(UNTOLD)))
        text = text.replace("\n" + line, "\n" + (added if added.startswith(line) else added + line))
    assert changed_lines(plain, text) <= 3
    return text


def changed_lines(plain, text):
    """Return how many lines were added, changed or taken away."""
    return sum(line[0] in "+-" for line in list(difflib.unified_diff(plain.splitlines(), text.splitlines(), n=0))[2:])


def final_loss(script, optimizer, lr, seed, agent=None):
    """Return the last number that the script prints, infinite where that is no number or there is none."""
    arguments = ["--lr", repr(lr), "--seed", str(seed)] + ([] if optimizer is None else ["--optimizer", optimizer])
    output, before = io.StringIO(), sys.argv
    try:
        sys.argv = [f"{script}.py", *arguments]
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exec(compile(source(script, agent), f"{script}.py", "exec"), {"__name__": "__main__"})
    finally:
        sys.argv = before
    loss = float(output.getvalue().split("train loss")[-1])
    return loss if math.isfinite(loss) and loss < 1e9 else math.inf


def mean(script, optimizer, lr, runs, agent=None):
    return statistics.mean(final_loss(script, optimizer, lr, seed, agent) for seed in range(runs))


def compare(script, optimizer, runs, agents=AGENTS, grid=GRID):
    """Return rows of agent, initial rate, mean loss and its ratio to the best constant's; that one comes first."""
    tuned, best = min((mean(script, optimizer, lr, runs), lr) for lr in grid)
    rows = [("constant, tuned", best, tuned, 1.0)]
    for agent in (None, *agents):
        if agent and agent.endswith(UNTOLD) and "total_steps" not in source(script, "learned"):
            continue  # Lightning and the Trainer know it, and tell
        for lr in BAD:
            loss = mean(script, optimizer, lr, runs, agent)
            rows.append((agent or "constant", lr, loss, loss / tuned))
    return rows


def main():
    import torch

    parser = argparse.ArgumentParser()
    parser.add_argument("--scripts", nargs="+", default=list(EDITS))
    parser.add_argument("--runs", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for script in options.scripts:
        for optimizer in OPTIMIZERS.get(script, (None,)):
            for agent, lr, loss, ratio in compare(script, optimizer, options.runs):
                row = {"script": script, "optimizer": optimizer or "adamw", "agent": agent}
                rows.append({**row, "lr0": f"{lr:g}", "loss": f"{loss:.5f}", "ratio": f"{ratio:.2f}"})
                print(*rows[-1].values(), sep="\t", flush=True)
    write_beside(HERE / "newcomer.csv", rows, ("script", "optimizer"))


if __name__ == "__main__":
    main()
