"""Speed of updates of OMD and MLE: several seeds as one tensor program, against plain loops.

    python benchmarks/omd_updates.py [--repeats N] [--model-hidden-dim M] [--threads N]
                                     [--cartpole-dtype float32]

A plain loop is what one would first write, and what the tests compare with: one seed, autograd (for
OMD, twice), torch.optim.Adam. CartPole-v1 is in float64 with networks of 2 x 32, HalfCheetah-v5 in
float32 with 2 x 256, both with batches of 256; environments take no part. What is compared is timed
in turns, so that what else runs on the machine falls on all alike, and the median of the turns'
ratios is what can be relied on: "per seed" is how many times faster S seeds are together than the
plain loop would be one after another, "cost" how many times as long they take as one alone. Plain
loop and one seed have one thread, several seeds N (default 1).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mbrl.algorithms.omd.agents import AGENTS, Settings  # noqa: E402
from mbrl.algorithms.omd.sac_agents import SAC_AGENTS, SACSettings  # noqa: E402
from mbrl.data import Batch  # noqa: E402
from mbrl.nn import threads_to_passes  # noqa: E402
from tests.algorithms.omd.reference import TINY, Reference  # noqa: E402
from tests.algorithms.omd.sac_reference import TINY as SAC_TINY  # noqa: E402
from tests.algorithms.omd.sac_reference import SACReference  # noqa: E402

BATCH = 256
SECONDS = 0.5  # of one turn, about


class Contest(NamedTuple):
    """A plain loop, and the same for several seeds at once."""

    name: str
    plain: Callable[[], object]
    stacked: dict[int, Callable[[], object]]  # by S


def batch_of(seeds: int, observations: int, actions: Tensor, dtype: torch.dtype) -> Batch:
    """Return random transitions, of actions [BATCH, nu]."""
    size = seeds, BATCH
    observation, following = torch.randn((2, *size, observations), dtype=dtype)
    reward, mask = torch.randn(size, dtype=dtype), torch.ones(size, dtype=dtype)
    return Batch(observation, actions.to(dtype).expand(*size, -1), reward, following, mask)


def row(batch: Batch) -> Batch:
    """Return the transitions of the first seed."""
    return Batch(*(part[0].contiguous() for part in batch))


def made(agents: Any, kind: str, settings: Any, seeds: int) -> Any:
    """Return a new agent."""
    return agents[kind](settings, [torch.Generator().manual_seed(s) for s in range(seeds)])


def cart_pole(kind: str, options: argparse.Namespace) -> Contest:
    """Return the agents of discrete actions."""
    dtype = getattr(torch, options.cartpole_dtype)
    sizes = {"observation_size": 4, "hidden_dim": 32, "model_hidden_dim": 32}
    rates = {"discount": 0.99, "alpha": 0.01, "tau": 0.01, "lr": 3e-4, "model_lr": 1e-3}
    settings = Settings(**{**TINY, **sizes, **rates, "dtype": dtype})
    actions = torch.randint(2, (BATCH, 1))

    def stacked(seeds: int) -> Callable[[], object]:
        agent = made(AGENTS, kind, settings, seeds)
        batch = batch_of(seeds, 4, actions, dtype)

        def update() -> None:
            with threads_to_passes():  # as a run has it
                agent.update(lambda: batch)

        return update

    reference = Reference(made(AGENTS, kind, settings, 1), 0, settings)
    batch = row(batch_of(1, 4, actions, dtype))
    if kind == "omd":
        return Contest(
            "CartPole-v1 omd", lambda: reference.omd(batch), {s: stacked(s) for s in (1, 10)}
        )
    return Contest(
        "CartPole-v1 mle",
        lambda: reference.mle([batch, batch], [None, None]),
        {s: stacked(s) for s in (1, 10)},
    )


def half_cheetah(kind: str, options: argparse.Namespace) -> Contest:
    """Return the soft actor-critics."""
    sizes = {"observation_size": 17, "action_size": 6, "dtype": torch.float32, "hidden_dim": 256}
    rates = {"discount": 0.99, "tau": 0.005, "lr": 3e-4, "model_lr": 3e-4, "target_entropy": -3.0}
    width = {"model_hidden_dim": options.model_hidden_dim}
    settings = SACSettings(**{**SAC_TINY, **sizes, **rates, **width})
    actions = torch.rand(BATCH, 6) * 2 - 1

    def stacked(seeds: int) -> Callable[[], object]:
        agent = made(SAC_AGENTS, kind, settings, seeds)
        batch = batch_of(seeds, 17, actions, torch.float32)
        return lambda: agent.update(lambda: batch)

    begun = made(SAC_AGENTS, kind, settings, 1)
    parameters = {name: getattr(begun, name).flat[0].clone() for name in ("phi", "w", "theta")}
    reference = SACReference(settings, parameters)
    batch = row(batch_of(1, 17, actions, torch.float32))
    update = getattr(reference, kind)
    return Contest(
        f"HalfCheetah-v5 {kind}",
        lambda: update(batch, lambda: torch.randn(BATCH, 6)),
        {s: stacked(s) for s in (1, 3)},
    )


def seconds_of(function: Callable[[], object], calls: int, threads: int) -> float:
    """Return the time of one of several calls."""
    torch.set_num_threads(threads)
    start = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - start) / calls


def turns_of(contest: Contest, options: argparse.Namespace) -> list[dict[int, float]]:
    """Return the seconds of an update in every turn, by S; S = 0 is the plain loop."""
    entrants = {0: contest.plain, **contest.stacked}
    threads = {seeds: options.threads if seeds > 1 else 1 for seeds in entrants}
    calls = {
        seeds: max(1, round(SECONDS / seconds_of(function, 3, threads[seeds])))
        for seeds, function in entrants.items()
    }
    return [
        {
            seeds: seconds_of(function, calls[seeds], threads[seeds])
            for seeds, function in entrants.items()
        }
        for _ in range(options.repeats)
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--model-hidden-dim", type=int, default=256, help="of HalfCheetah-v5")
    parser.add_argument("--threads", type=int, default=1, help="of several seeds")
    parser.add_argument("--cartpole-dtype", choices=["float64", "float32"], default="float64")
    options = parser.parse_args()
    torch.manual_seed(0)
    print(f"{'':22}{'S':>4}{'plain/s':>10}{'updates/s':>11}{'per seed':>10}{'cost':>9}")
    for contest in (
        make(kind, options) for make in (cart_pole, half_cheetah) for kind in ("omd", "mle")
    ):
        turns = turns_of(contest, options)
        for seeds in contest.stacked:
            plain = statistics.median(turn[0] for turn in turns)
            stacked = statistics.median(turn[seeds] for turn in turns)
            ratio = statistics.median(seeds * turn[0] / turn[seeds] for turn in turns)
            cost = statistics.median(turn[seeds] / turn[1] for turn in turns)
            print(
                f"{contest.name:22}{seeds:4}{1 / plain:10.0f}{1 / stacked:11.0f}{ratio:9.1f}x"
                f"{cost:8.2f}x",
                flush=True,
            )


if __name__ == "__main__":
    main()
