"""Prints the numbers of this folder's page that are in none of its tables, read from traces and from a plain loop.

    python experiments/proposal/mechanism.py                 everything; mechanism.txt is its output
    python experiments/proposal/mechanism.py first-steps     one part: first-steps, rates, quadratic or digits

Needs the package installed and MNIST (downloaded once, or found in LRCONTROL_DATA). Seeds 0 to 9.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import lrcontrol

Array = NDArray[np.float64]
RUNS = 10
CLIMBERS = ("hillclimb", "hillclimb:factor=1.1")


def geometric_mean(rates: Array) -> float:
    return float(np.exp(np.log(rates).mean()))


def span(values: Array, digits: int = 3) -> str:
    return f"{values.min():.{digits}g} to {values.max():.{digits}g}"


def follow(task: str, agent: str, steps: int) -> tuple[Array, Array, lrcontrol.Results]:
    """Return rate and loss, (RUNS, steps) each, of an agent that starts from 0.1, and the results they are from."""
    results = lrcontrol.evaluate(task, [agent], lr0=[0.1], runs=RUNS, steps=steps)
    lr, loss = (results.traces[name].to_numpy().reshape(RUNS, steps) for name in ("lr", "loss"))
    return lr, loss, results


def first_steps() -> None:
    """Train in the proposal's setting with a plain loop; print the gradient's size N, its average E, and living units.

    A hidden unit lives if it is positive on one of the first 5,000 images.
    """
    task = lrcontrol.make_task("mnist-mlp-raw")
    inputs, labels = task.train
    print("first steps: constant rate, the proposal's smoothing, plain loop, torch seeds 0 to 9, medians of N and E")
    for lr in (2.15443e-4, 1e-3, 4.64159e-3, 1e-2):
        sizes, smoothed, living = np.zeros((3, RUNS, 51))
        for seed in range(RUNS):
            torch.manual_seed(seed)
            model: Any = task.model()
            params = list(model.parameters())
            average = None
            for step in range(51):
                rows = slice(1000 * (step % 60), 1000 * (step % 60 + 1))
                gradients = torch.autograd.grad(task.loss(model(inputs[rows]), labels[rows]), params)
                size = sum(float(gradient.norm()) for gradient in gradients)
                average = size if average is None else 0.1 * size + 0.9 * average
                with torch.no_grad():
                    living[seed, step] = (model[0](inputs[:5000]) > 0.0).any(dim=0).sum()
                    for param, gradient in zip(params, gradients, strict=True):
                        param -= lr * average / size * gradient
                sizes[seed, step], smoothed[seed, step] = size, average
        for step in (0, 5, 10, 20, 50):
            size, average, units = np.median(sizes[:, step]), np.median(smoothed[:, step]), living[:, step]
            print(
                f"  rate {lr:<8.3g} step {step:2}: N {size:6.2f}, E {average:5.1f}, "
                f"living units {units.mean():4.1f} of 20, runs without any {int((units == 0).sum())}"
            )


def rates_over_training() -> None:
    starts = [1e-5, 2.15443e-4, 1e-3, 1e-2]
    results = lrcontrol.evaluate("mnist-mlp-raw", ["hillclimb"], lr0=starts, runs=RUNS)
    print("mnist-mlp-raw, hillclimb: mean rate over the runs")
    for lr0, lr in zip(
        starts, results.traces["lr"].to_numpy().reshape(len(starts), RUNS, -1).mean(axis=1), strict=True
    ):
        print(f"  from {lr0:.3g}: highest {lr.max():.3g} at step {lr.argmax()}, last {lr[-1]:.3g}")
    constant = lrcontrol.evaluate("mnist-mlp-raw", ["constant"], lr0=[1e-2], runs=RUNS)
    for agent, table in (("constant", constant.runs), ("hillclimb", results.runs)):
        accuracies = [f"{100 * value:.2f}" for value in table["train_accuracy"].to_pylist()[-RUNS:]]
        print(f"  {agent} from 0.01, accuracy in % by run: {' '.join(accuracies)}")
    shares = torch.bincount(lrcontrol.make_task("mnist-mlp-raw").train[1]) / 600.0
    print(f"  share of each digit in %: {' '.join(f'{share:.2f}' for share in shares.tolist())}")


def quadratic() -> None:
    for agent in CLIMBERS:
        lr, loss, _ = follow("quadratic:conditioning=10,steps=2000", agent, 2000)
        first_zero = (loss == 0.0).argmax(axis=1)
        raises = [np.flatnonzero(np.diff(rates) > 0.0) + 1 for rates in lr]
        late = sum(int((steps > zero).sum()) for steps, zero in zip(raises, first_zero, strict=True))
        print(f"quadratic, conditioning 10, no noise, {agent}")
        print(f"  highest rate {span(lr.max(axis=1))}, at steps {span(lr.argmax(axis=1))}")
        means = [f"{step}: {geometric_mean(lr[:, step]):.3g}" for step in (50, 100, 150, 200, 300)]
        print(f"  geometric mean of the rate at step {', '.join(means)}")
        print(f"  mean loss at step {', '.join(f'{s}: {loss[:, s].mean():.2g}' for s in (50, 60, 100, 200, 300))}")
        print(f"  loss exactly 0 from step {span(first_zero)} on; smallest before it {loss[loss > 0.0].min():.2g}")
        print(
            f"  last raise at steps {span(np.array([steps[-1] for steps in raises]))}; raises after the first 0: {late}"
        )
    minima = lrcontrol.make_task("quadratic:conditioning=10,noise=0.3").train[0]
    lowest = 0.5 * float((minima**2 * torch.logspace(0.0, -1.0, 10)).sum(dim=1).mean())
    print(f"quadratic, conditioning 10, noise 0.3: loss at the minimum {lowest:.3g}")
    for agent in CLIMBERS:
        lr, _, results = follow("quadratic:conditioning=10,noise=0.3,steps=2000", agent, 2000)
        early, late = geometric_mean(lr[:, 500:1000]), geometric_mean(lr[:, -500:])
        print(f"  {agent}: geometric mean of the rate over steps 500 to 999 {early:.3g}, over the last 500 {late:.3g}")
        print(f"    rates of all runs in the last 1,000 steps {span(lr[:, -1000:])}")
        print(f"    final training loss {np.mean(results.runs['train_loss'].to_pylist()):.3g}")
    cosine = lrcontrol.evaluate(
        "quadratic:conditioning=10,noise=0.3", ["schedule:kind=cosine"], lr0=[1.0], runs=RUNS, steps=2000
    )
    print(f"  cosine to zero from 1: final training loss {cosine.summary['train_loss_mean'].to_pylist()[0]:.3g}")


def digits() -> None:
    print("digits-mlp, 5,000 steps: final training loss")
    results = lrcontrol.evaluate("digits-mlp", ["constant"], lr0=[0.3, 1.0, 2.0, 4.0], runs=5, steps=5000)
    for row in results.summary.to_pylist():
        print(f"  constant {row['lr0']:g}: {row['train_loss_mean']:.2g} ± {row['train_loss_std']:.2g}, 5 runs")
    for agent in CLIMBERS:
        lr, loss, results = follow("digits-mlp", agent, 5000)
        final = np.array(results.runs["train_loss"].to_pylist())
        early, late = np.median(loss[:, 500:1000]), np.median(loss[:, -500:])
        share = (np.diff(lr[:, -1000:]) > 0.0).mean()
        print(f"  {agent}: {final.mean():.2g} ± {final.std(ddof=1):.2g}, from {span(final, 2)}, {RUNS} runs")
        print(f"    median minibatch loss over steps 500 to 999 {early:.2g}, over the last 500 {late:.2g}")
        print(f"    last 1,000 steps: rates of all runs {span(lr[:, -1000:], 2)}, share of raises {share:.2f}")


PARTS = {"first-steps": first_steps, "rates": rates_over_training, "quadratic": quadratic, "digits": digits}

if __name__ == "__main__":
    for name in sys.argv[1:] or PARTS:
        PARTS[name]()
