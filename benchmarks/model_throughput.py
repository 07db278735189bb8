"""Speed of planning through a learned model, against matrix products of the same machine.

    python benchmarks/model_throughput.py [--rows N] [--steps T] [--threads K] [--compile]

Rolls N candidates over T steps through a perceptron with two hidden layers of 500 and the sizes of
the half-cheetah: by the model itself, by its folded form, in bfloat16, and with --compile by
torch.compile (which needs a C++ compiler); as a whole plan of ten cheetahs, random sequences drawn
and costs added up; and as many particles through an ensemble of five with four hidden layers of
200. Every variant is timed next to a product of square matrices, in turns, so
that what else runs on the machine falls on both; shares are of that peak, and count the products'
operations alone.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

import mbrl
from mbrl.nn import DynamicsModel, EnsembleDynamics, FoldedEnsemble, FoldedMLP, MLPDynamics
from mbrl.planning import RandomShooting, RecedingHorizon, learned_model, observed_problem

STATE, ACTION = 20, 6  # the half-cheetah's observations and actions
SQUARE = 1024  # size of the matrices that the peak is measured by
PARTICLES = 20  # of every candidate, for the ensemble
EPISODES = 10  # that are planned for at once
REPEATS = 7


class Variant(NamedTuple):
    """A way to roll out."""

    name: str
    model: DynamicsModel
    run: Callable[[Tensor, Tensor], object]


def plain(model: MLPDynamics) -> Callable[[Tensor, Tensor], object]:
    """States in float64, as planners keep them."""
    return lambda state, actions: model.rollout(state.double(), actions.double())


def compiled(model: MLPDynamics) -> Callable[[Tensor, Tensor], object]:
    """One step of the model as one compiled function."""
    step = torch.compile(lambda state, action: model.predict(state, action).next_state)

    @torch.no_grad()
    def rollout(state: Tensor, actions: Tensor) -> Tensor:
        for action in actions:
            state = step(state, action)
        return state

    return rollout


def propagated(model: EnsembleDynamics) -> Callable[[Tensor, Tensor], object]:
    """Particles of an ensemble, as planners move them: as many rows, fewer candidates."""
    generator, folded = torch.Generator().manual_seed(0), FoldedEnsemble(model)

    def rollout(state: Tensor, actions: Tensor) -> object:
        candidates = len(state) // PARTICLES
        return folded.rollout(
            state[:candidates], actions[:, :candidates], particles=PARTICLES, generator=generator
        )

    return rollout


def planned(model: MLPDynamics, rows: int, steps: int) -> Callable[[Tensor, Tensor], object]:
    """All that a control step of learned_mpc does to choose its actions."""
    task = mbrl.make_task("mbrl/HalfCheetahTorso-v0")
    problem = observed_problem(task, steps, learned_model(model))
    controller = RecedingHorizon(problem, RandomShooting(samples=rows // EPISODES), seed=0)
    return lambda state, actions: controller.act(state[:EPISODES].double().numpy(), 0)


def variants(model: MLPDynamics, *, rows: int, steps: int, compile: bool) -> Iterator[Variant]:
    """Yield what is timed."""
    yield Variant("model, float64 states", model, plain(model))
    yield Variant("model, float32 states", model, model.rollout)
    yield Variant("folded, float32", model, FoldedMLP(model).rollout)
    yield Variant("a whole plan", model, planned(model, rows, steps))
    half = MLPDynamics(STATE, ACTION, torch.Generator()).to(torch.bfloat16)
    half.load_state_dict(model.state_dict())
    yield Variant("folded, bfloat16", model, FoldedMLP(half).rollout)
    if compile:
        yield Variant("compiled, float32", model, compiled(model))
    ensemble = EnsembleDynamics(STATE, ACTION, torch.Generator().manual_seed(0))
    yield Variant("ensemble, TS1", ensemble, propagated(ensemble))


def operations(model: DynamicsModel) -> int:
    """Of the matrix products of one evaluation of one member."""
    weights = [part for name, part in model.named_parameters() if name.endswith("weight")]
    return 2 * sum(weight.numel() for weight in weights) // model.members


def seconds(function: Callable[[], object]) -> float:
    """Time of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(0)
    model = MLPDynamics(STATE, ACTION, generator)
    model.set_statistics(
        inputs=(torch.zeros(STATE + ACTION), torch.ones(STATE + ACTION)),
        differences=(torch.zeros(STATE), torch.full((STATE,), 0.1)),
    )
    state = torch.randn(options.rows, STATE, generator=generator)
    actions = torch.rand(options.steps, options.rows, ACTION, generator=generator) * 2 - 1
    square = torch.randn(SQUARE, SQUARE, generator=generator)
    product = torch.empty_like(square)

    evaluations = options.rows * options.steps
    print(f"{options.rows} candidates x {options.steps} steps, {options.threads} thread(s)")
    print(f"{'variant':24}{'evaluations/s':>14}{'GFLOP/s':>9}{'peak':>7}{'share':>7}")
    for name, network, rollout in variants(
        model, rows=options.rows, steps=options.steps, compile=options.compile
    ):
        rollout(state, actions)  # the first allocates, and compiles
        times, peaks = [], []
        for _ in range(REPEATS):
            peaks.append(seconds(lambda: torch.mm(square, square, out=product)))
            times.append(seconds(lambda rollout=rollout: rollout(state, actions)))
        rate = evaluations / statistics.median(times)
        speed, peak = (
            operations(network) * rate / 1e9,
            2 * SQUARE**3 / statistics.median(peaks) / 1e9,
        )
        print(f"{name:24}{rate:14.0f}{speed:9.1f}{peak:7.1f}{100 * speed / peak:6.0f} %")


if __name__ == "__main__":
    main()
