"""Runs of OMD, MLE and VEP on the cart-pole: seeds together and alone, stopped and continued."""

import os

import numpy as np
import pytest
import torch

import mbrl
from mbrl.algorithms import DiscreteOMD, Setting
from mbrl.algorithms.omd.agents import OMD
from mbrl.config import from_mapping
from mbrl.errors import ArgumentError, ConfigError, DivergenceError
from mbrl.finished_runs import load_policy
from mbrl.runner import run
from tests.tiny import resume, rows, same, same_runs, stored, summary

TINY = {
    "seeds": 3,
    "updates": 3,
    "steps": 20,
    "random_steps": 25,
    "eval_episodes": 2,
    "batch_size": 16,
    "hidden_dim": 8,
    "model_hidden_dim": 4,
}


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Spare the disk."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def made(seed=0, task=None, **options):
    task = mbrl.make_task("CartPole-v1", **(task or {}))
    setting = Setting(task, {}, torch.Generator().manual_seed(seed))
    return DiscreteOMD(setting, **{**TINY, **options})


def config(folder, **changes):
    content = {
        "task": "CartPole-v1",
        "task_args": {"distractors": 1},
        "seed": 4,
        "algorithm": {"kind": "omd", **TINY, **changes},
        "evaluation": {"episodes": 5},
        "checkpoint": {"every": 1},
        "output_dir": str(folder),
    }
    return from_mapping(content, "tiny")


EVERY = [
    {"agent": "omd"},
    {"agent": "mle"},
    {"agent": "vep"},
    {"agent": "omd", "adjoint": "conjugate_gradient", "damping": 1.0, "adjoint_iterations": 3},
    {"agent": "omd", "probabilistic": True, "task": {"distractors": 2}},
    {"agent": "mle", "probabilistic": True, "double": False},
]


@pytest.mark.parametrize("options", EVERY, ids=str)
def test_a_seed_of_several_is_that_seed_alone(options):
    together = made(seed=7, **options)
    alone = [made(seed=7 + i, **{**options, "seeds": 1}) for i in range(3)]
    for _ in range(3):
        found = together.update()
        for i, single in enumerate(alone):
            expected = single.update()
            assert found[f"return_{7 + i}"] == expected[f"return_{7 + i}"]
            assert expected["return_mean"] == expected[f"return_{7 + i}"]
    state = together.state_dict()
    for i, single in enumerate(alone):
        other = single.state_dict()
        for name in ("w", "w_", "theta"):
            torch.testing.assert_close(
                state["agent"][name][i], other["agent"][name][0], rtol=1e-7, atol=1e-9
            )
        assert torch.equal(state["replay"]["rows"][:, i], other["replay"]["rows"][:, 0])
        assert torch.equal(state["generators"][i], other["generators"][0])
        assert torch.equal(state["members"]["state"][i], other["members"]["state"][0])
    assert not torch.equal(state["agent"]["w"][0], state["agent"]["w"][1])


def test_what_an_update_measures():
    algorithm = made(seed=3)
    for update in range(3):
        before = algorithm.state_dict()["agent"]["w"]
        found = algorithm.update()
        learned = not torch.equal(before, algorithm.state_dict()["agent"]["w"])
        assert learned == (update > 0), "the first 25 steps are random, then one update each"
        each = [found[f"return_{seed}"] for seed in (3, 4, 5)]
        assert found["return_mean"] == pytest.approx(np.mean(each))
        assert found["return_std"] == pytest.approx(np.std(each))
        assert found["env_steps"] == 20
    assert {"vals_Q", "loss_Q", "grad_norm_Q", "entropy", "next_obs_nll"} < found.keys()
    assert algorithm.state_dict()["replay"]["rows"].shape == (60, 3, 4 + 1 + 1 + 4 + 1)


@pytest.mark.parametrize("kind", [("omd", 1), ("omd", 2), ("mle", 1), ("vep", 1)], ids=str)
def test_updates_are_one_a_step_after_the_random_ones(kind, monkeypatch):
    agent, steps = kind
    algorithm = made(agent=agent, num_T_steps=steps)
    sizes = []
    original = algorithm._agent.update

    def update(draw):
        def counted():
            batch = draw()
            sizes.append((len(algorithm._replay), batch.mask.shape))
            return batch

        original(counted)

    monkeypatch.setattr(algorithm._agent, "update", update)
    for _ in range(3):
        algorithm.update()
    each = {"omd": steps, "mle": 2, "vep": 2}[agent]
    wanted = [(n, (3, 16)) for n in range(26, 61) for _ in range(each)]
    assert sizes == wanted


def test_looking_at_a_run_does_not_change_it():
    often, seldom = made(eval_episodes=7), made(eval_episodes=1)
    for algorithm in (often, seldom):
        algorithm.update()
        algorithm.update()
    assert same(often.state_dict()["agent"], seldom.state_dict()["agent"])


@pytest.mark.parametrize("options", [EVERY[0], EVERY[2], {"agent": "omd", "buffer_size": 30}])
def test_a_run_continues_bit_for_bit(tmp_path, options):
    reference = run(config(tmp_path, **options)).run_dir
    stopped = run(config(tmp_path, **options, updates=1)).run_dir
    longer = config(tmp_path, **options)
    assert run(longer, resume=stopped).run_dir == stopped
    assert same_runs(reference, stopped)
    assert resume(stopped).summary["updates"] == 3, "nothing is left to do"
    assert len(rows(reference)) == 3
    assert summary(reference)["env_steps"] == 60


def test_a_finished_run_hands_out_its_policies(tmp_path):
    found = run(config(tmp_path))
    policy = load_policy(found.run_dir)
    state = stored(found.run_dir)["algorithm"]["agent"]
    fresh = made(seed=4, task={"distractors": 1})
    assert not torch.equal(fresh.state_dict()["agent"]["w"], state["w"])
    action = policy.act(np.zeros((6, 5), dtype=np.float32))
    assert action.shape == (6, 1)
    assert set(action.ravel()) <= {0.0, 1.0}
    policy.reset()
    np.testing.assert_array_equal(action, policy.act(np.zeros((6, 5), dtype=np.float32)))
    assert found.summary["eval_episodes"] == 5


def test_what_is_no_longer_finite_is_refused_and_undone(monkeypatch):
    algorithm = made()
    algorithm.update()
    before = algorithm.state_dict()
    original = OMD.update

    def update(self, draw):
        original(self, draw)
        self.w.flat[1, 3] = torch.inf

    monkeypatch.setattr(OMD, "update", update)
    with pytest.raises(DivergenceError, match=r"no longer finite, those of seeds \[1\]"):
        algorithm.update()
    assert same(before, algorithm.state_dict())
    monkeypatch.undo()
    again = made()
    again.update()
    algorithm.update(), again.update()
    assert same(again.state_dict(), algorithm.state_dict())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"agent": "oml"}, r"algorithm.agent: unknown value 'oml'; .*did you mean 'omd'"),
        ({"batch_size": 26}, "batch_size must be at most random_steps and buffer_size, 25, got 26"),
        ({"buffer_size": 8}, "batch_size must be at most random_steps and buffer_size, 8, got 16"),
        ({"alpha": 0.0}, "algorithm.alpha must be positive, got 0"),
        ({"discount": 1.1}, r"algorithm.discount must lie in \[0, 1\], got 1.1"),
        ({"seeds": 0}, "algorithm.seeds must be at least 1, got 0"),
        ({"model_hiden_dim": 3}, "did you mean 'model_hidden_dim'"),
    ],
)
def test_wrong_options_are_named(tmp_path, changes, message):
    with pytest.raises((ArgumentError, ConfigError), match=message):
        run(config(tmp_path, **changes))


def test_a_task_that_does_not_fit_is_refused():
    task = mbrl.make_task("InvertedPendulum-v5", threads=1)
    with pytest.raises(ArgumentError, match=r"InvertedPendulum-v5 does not fit .* CartPole-v1"):
        DiscreteOMD(Setting(task, {}, torch.Generator()))


@pytest.mark.slow
def test_the_pole_is_held_much_longer_than_by_chance():
    options = {"hidden_dim": 32, "model_hidden_dim": 32, "batch_size": 256}
    algorithm = made(
        agent="mle", seeds=2, steps=1500, random_steps=1000, eval_episodes=20, **options
    )
    by_chance = 22.0  # the mean return of uniform actions
    for _ in range(3):
        found = algorithm.update()
    assert found["return_mean"] > 4 * by_chance
