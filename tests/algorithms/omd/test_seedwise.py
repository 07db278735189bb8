"""Runs of several seeds: together and alone, stopped and continued, looked at, undone."""

import os

import numpy as np
import pytest
import torch

import mbrl
from mbrl.algorithms import Setting
from mbrl.algorithms.omd.agent import Agent
from mbrl.algorithms.omd.members import Members
from mbrl.errors import ArgumentError, ConfigError, DivergenceError, TaskError
from mbrl.finished_runs import load_policy
from mbrl.runner import run
from mbrl.signals import Interrupted
from tests.algorithms.omd.runs import BATCH, KINDS, RANDOM, SEEDS, STEPS, TASKS, TINY, config, made
from tests.tiny import resume, rows, same, same_runs, stored, summary

EVERY = [
    ("omd", {"agent": "omd"}),
    ("omd", {"agent": "mle"}),
    ("omd", {"agent": "vep"}),
    ("omd", {"adjoint": "conjugate_gradient", "damping": 1.0, "adjoint_iterations": 3}),
    ("omd", {"agent": "omd", "probabilistic": True, "task": {"distractors": 2}}),
    ("omd", {"agent": "mle", "probabilistic": True, "double": False}),
    ("omd_sac", {"agent": "omd", "task": {"distractors": 2}}),
    ("omd_sac", {"agent": "mle", "outer_steps": 2, "lr": 0.01}),
]


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Spare the disk."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.mark.parametrize(("kind", "options"), EVERY, ids=str)
def test_a_seed_of_several_is_that_seed_alone(kind, options):
    options = {**options, "dtype": "float64"}
    together = made(kind, seed=7, **options)
    alone = [made(kind, seed=7 + i, **{**options, "seeds": 1}) for i in range(SEEDS)]
    for _ in range(3):
        found = together.update()
        for i, single in enumerate(alone):
            expected = single.update()
            assert found[f"return_{7 + i}"] == pytest.approx(expected["return_mean"], rel=1e-12)
            assert expected["return_mean"] == expected[f"return_{7 + i}"]
    state = together.state_dict()
    for i, single in enumerate(alone):
        other = single.state_dict()
        for name, value in state["agent"].items():
            if isinstance(value, torch.Tensor):
                torch.testing.assert_close(value[i], other["agent"][name][0], rtol=1e-7, atol=1e-9)
        remembered = (part["replay"]["rows"] for part in (state, other))
        torch.testing.assert_close(next(remembered)[:, i], next(remembered)[:, 0])
        assert torch.equal(state["generators"][i], other["generators"][0])
    for name in ("w", "theta"):
        assert not torch.equal(state["agent"][name][0], state["agent"][name][1])


METRICS = {
    "omd": {"vals_Q", "loss_Q", "grad_norm_Q", "entropy", "next_obs_nll"},
    "omd_sac": {"critic_loss", "actor_loss", "values", "temperature", "entropy"}
    | {f"grad_norm_{part}" for part in ("critic", "actor", "model")},
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_an_update_measures(kind, monkeypatch):
    algorithm = made(kind, seed=3)
    for update in range(3):
        before = algorithm.state_dict()["agent"]["w"]
        found = algorithm.update()
        learned = not torch.equal(before, algorithm.state_dict()["agent"]["w"])
        assert learned == (update > 0), "the first 25 steps are random, then one update each"
        each = [found[f"return_{seed}"] for seed in (3, 4, 5)]
        assert found["return_mean"] == pytest.approx(np.mean(each))
        assert found["return_std"] == pytest.approx(np.std(each))
        assert found["env_steps"] == STEPS
    named = {"env_steps", "return_mean", "return_std", "return_3", "return_4", "return_5"}
    named |= {"model_error", "model_error_median", "reward_error", "diverged"}
    assert found.keys() == named | METRICS[kind]
    assert found["diverged"] == 0
    agent = algorithm._agent
    errors = agent.measured(algorithm._batch_to_measure())["model_error"] + torch.tensor([0, 1, 9])
    monkeypatch.setattr(agent, "measured", lambda batch: {"model_error": errors})
    found = algorithm._measured()
    assert found["model_error"] == pytest.approx(float(errors.sum()) / 3)
    assert found["model_error_median"] == float(errors[1])
    assert algorithm.state_dict()["replay"]["rows"].shape == (60, 3, 4 + 1 + 1 + 4 + 1)


@pytest.mark.parametrize(
    ("kind", "options", "each"),
    [
        ("omd", {"agent": "omd"}, 1),
        ("omd", {"agent": "omd", "num_T_steps": 2}, 2),
        ("omd", {"agent": "mle"}, 2),
        ("omd", {"agent": "vep"}, 2),
        ("omd_sac", {"agent": "omd", "outer_steps": 3}, 3),
        ("omd_sac", {"agent": "mle", "steps": 130}, 1),
    ],
    ids=str,
)
def test_updates_are_one_a_step_after_the_random_ones(kind, options, each, monkeypatch):
    algorithm, sizes = made(kind, **options), []
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
    last = 3 * options.get("steps", STEPS)
    assert sizes == [(n, (SEEDS, BATCH)) for n in range(RANDOM + 1, last + 1) for _ in range(each)]


@pytest.mark.parametrize("kind", KINDS)
def test_looking_at_a_run_does_not_change_it(kind):
    often, seldom = made(kind, eval_episodes=7), made(kind, eval_episodes=1)
    for algorithm in (often, seldom):
        algorithm.update()
        algorithm.update()
    assert same(often.state_dict()["agent"], seldom.state_dict()["agent"])


@pytest.mark.parametrize(
    ("kind", "options"),
    [EVERY[0], EVERY[2], ("omd", {"buffer_size": 30}), ("omd_sac", {"buffer_size": 30}), EVERY[7]],
    ids=str,
)
def test_a_run_continues_bit_for_bit(tmp_path, kind, options):
    reference = run(config(tmp_path, kind, **options)).run_dir
    stopped = run(config(tmp_path, kind, **options, updates=1)).run_dir
    longer = config(tmp_path, kind, **options)
    assert run(longer, resume=stopped).run_dir == stopped
    assert same_runs(reference, stopped)
    memories = [path / "checkpoints" / "replay.bin" for path in (reference, stopped)]
    assert memories[0].read_bytes() == memories[1].read_bytes()
    assert memories[0].stat().st_size == 60 * SEEDS * (5 + 1 + 1 + 5 + 1) * 4
    assert resume(stopped).summary["updates"] == 3, "nothing is left to do"
    assert len(rows(reference)) == 3
    assert summary(reference)["env_steps"] == 60


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_is_stopped_in_the_middle_of_an_update_goes_on_there(
    tmp_path, monkeypatch, kind
):
    module = "discrete" if kind == "omd" else "continuous"
    monkeypatch.setattr(f"mbrl.algorithms.omd.{module}._CHUNK", 8)
    reference = run(config(tmp_path, kind)).run_dir
    original, taken = Members.step, []

    def step(self, *arguments):
        taken.append(arguments)
        if len(taken) == STEPS + 11:  # in the second part of the second update
            os.kill(os.getpid(), 15)
        original(self, *arguments)

    monkeypatch.setattr(Members, "step", step)
    with pytest.raises(Interrupted) as stopped:
        run(config(tmp_path, kind))
    monkeypatch.setattr(Members, "step", original)
    assert len(taken) == STEPS + 16
    state = stored(stopped.value.run_dir)
    assert (state["update"], state["algorithm"]["taken"]) == (1, 16)
    resume(stopped.value.run_dir)
    assert same_runs(reference, stopped.value.run_dir)


@pytest.mark.parametrize("kind", KINDS)
def test_a_finished_run_hands_out_its_policies(tmp_path, kind):
    found = run(config(tmp_path, kind))
    policy = load_policy(found.run_dir)
    weights = stored(found.run_dir)["algorithm"]["agent"]["w"]
    fresh = made(kind, seed=4, task={"distractors": 1})
    assert not torch.equal(fresh.state_dict()["agent"]["w"], weights)
    seen = np.zeros((6, 5), dtype=np.float32)
    action = policy.act(seen)
    assert action.shape == (6, 1)
    policy.reset()
    np.testing.assert_array_equal(action, policy.act(seen))
    assert found.summary["eval_episodes"] == 5
    if kind == "omd_sac":  # the other's actions are drawn
        seen = np.random.default_rng(0).normal(size=(4, 5))
        dealt = policy.act(seen.repeat(SEEDS, axis=0)).reshape(4, SEEDS)
        for i in range(SEEDS):
            np.testing.assert_allclose(policy.of(4 + i).act(seen)[:, 0], dealt[:, i], rtol=1e-6)
        assert len(np.unique(dealt[0])) == SEEDS


def undone(algorithm, kind, message, monkeypatch, **options):
    """Check that an update fails, and that nothing tells of it."""
    before = algorithm.state_dict()
    with pytest.raises(DivergenceError, match=message):
        algorithm.update()
    assert same(before, algorithm.state_dict())
    monkeypatch.undo()
    again = made(kind, **options)
    again.update()
    assert same(again.update(), algorithm.update())
    assert same(again.state_dict(), algorithm.state_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_that_are_no_longer_finite_are_refused_and_undone(kind, monkeypatch):
    algorithm = made(kind)
    algorithm.update()
    agent: Agent = algorithm._agent
    original = agent.update

    def update(draw):
        original(draw)
        agent.parts()["phi" if kind == "omd_sac" else "w"][:, 3] = torch.nan

    monkeypatch.setattr(agent, "update", update)
    undone(algorithm, kind, r"no longer finite, of seeds \[0, 1, 2\]", monkeypatch)


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_that_is_lost_stays_where_it_was_and_the_others_go_on(kind, monkeypatch):
    reference, algorithm = made(kind), made(kind)
    for each in (reference, algorithm):
        each.update()
        each.update()
    agent, calls = algorithm._agent, []
    original, before = agent.update, agent.numbers([1])

    def update(draw):
        original(draw)
        calls.append(1)
        if len(calls) >= 5:
            agent.parts()["theta"][1, 3] = torch.inf

    monkeypatch.setattr(agent, "update", update)
    with pytest.warns(RuntimeWarning, match=r"no longer finite, of seeds \[1\], after 40 steps"):
        found = algorithm.update()
    wanted = reference.update()
    assert (found["diverged"], wanted["diverged"]) == (1, 0)
    for seed in ("return_0", "return_2"):
        assert found[seed] == wanted[seed]
    assert same(agent.numbers([0, 2]), reference._agent.numbers([0, 2]))
    assert same(agent.numbers([1]), before)

    monkeypatch.setattr(agent, "update", original)
    state = algorithm.state_dict()
    found, wanted = algorithm.update(), reference.update()
    assert found["diverged"] == 1
    assert (found["return_0"], found["return_2"]) == (wanted["return_0"], wanted["return_2"])
    assert same(agent.numbers([1]), before)
    continued = made(kind)
    continued.load_state_dict(state)
    assert same(continued.update(), found)
    assert same(continued._agent.numbers([0, 1, 2]), agent.numbers([0, 1, 2]))
    assert continued.actor().measured() == {"diverged_seeds": 1}


@pytest.mark.parametrize("weight", [torch.nan, 1e300])  # 1e300: the sums are no numbers
def test_an_environment_that_refuses_a_lost_seeds_actions_does_not_end_the_others(
    weight, monkeypatch
):
    reference, algorithm = (made("omd_sac", dtype="float64") for _ in range(2))
    for each in (reference, algorithm):
        each.update()
        each.update()
    agent, calls = algorithm._agent, []
    original, step = agent.update, Members.step

    def update(draw):
        original(draw)
        calls.append(1)
        if len(calls) == 5:
            agent.parts()["phi"][1] = weight * agent.parts()["phi"][1].sign()

    def refusing(self, action, *arguments):
        if not action.isfinite().all():
            raise TaskError("actions must be numbers")
        step(self, action, *arguments)

    monkeypatch.setattr(agent, "update", update)
    monkeypatch.setattr(Members, "step", refusing)
    with pytest.warns(RuntimeWarning, match=r"seeds \[1\], after 40 steps: they learn no more"):
        found = algorithm.update()
    wanted = reference.update()
    assert found["diverged"] == 1
    assert (found["return_0"], found["return_2"]) == (wanted["return_0"], wanted["return_2"])


def test_what_an_environment_makes_of_itself_is_no_seeds_fault(monkeypatch):
    """It observes no numbers, and its next step refuses what the policy makes of that."""
    algorithm, calls = made("omd_sac"), []
    algorithm.update()
    algorithm.update()
    step = Members.step

    def failing(self, action, *arguments):
        if not action.isfinite().all():
            raise TaskError("actions must be numbers")
        step(self, action, *arguments)
        calls.append(1)
        if len(calls) == 5:
            self.observation[1] = torch.nan

    monkeypatch.setattr(Members, "step", failing)
    with pytest.raises(TaskError, match="actions must be numbers"):
        algorithm.update()


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_whose_optimiser_overflowed_is_lost(kind):
    """In single precision the square of a gradient of 1e22 is infinite: no step is ever taken."""
    algorithm = made(kind, dtype="float32")
    algorithm.update()
    agent = algorithm._agent
    assert not bool(agent.lost().any())
    gradient = torch.zeros_like(agent.theta.flat)
    gradient[2, 0] = 1e22
    agent._theta_adam.step(gradient)
    assert agent.lost().tolist() == [False, False, True]


@pytest.mark.parametrize("buffer_size", [1000, 16])  # 16: what is undone had overwritten others
@pytest.mark.parametrize("kind", KINDS)
def test_physics_that_diverge_are_undone(kind, buffer_size, monkeypatch):
    algorithm, taken = made(kind, buffer_size=buffer_size), []
    algorithm.update()
    original = Members.step

    def step(self, *arguments):
        taken.append(arguments)
        if len(taken) == 7:
            raise DivergenceError("the simulation diverged in rows [1]", [1])
        original(self, *arguments)

    monkeypatch.setattr(Members, "step", step)
    message = r"the simulation diverged in rows \[1\]"
    undone(algorithm, kind, message, monkeypatch, buffer_size=buffer_size)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_whose_environment_fails_goes_on_as_if_it_had_not(tmp_path, kind, monkeypatch):
    reference = run(config(tmp_path, kind, updates=2, steps=30)).run_dir
    original, taken = Members.step, []

    def step(self, *arguments):
        taken.append(arguments)
        if len(taken) == 37:
            raise TaskError("the environment failed")
        original(self, *arguments)

    monkeypatch.setattr(Members, "step", step)
    other = tmp_path / "other"
    with pytest.raises(TaskError, match="the environment failed"):
        run(config(other, kind, updates=2, steps=30))
    monkeypatch.setattr(Members, "step", original)
    (path,) = other.glob("*/*")
    resume(path)
    assert same_runs(reference, path)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("omd", {"agent": "oml"}, r"algorithm.agent: unknown value 'oml'; .*did you mean 'omd'"),
        ("omd", {"batch_size": 26}, "at most random_steps and buffer_size, 25, got 26"),
        ("omd", {"buffer_size": 8}, "at most random_steps and buffer_size, 8, got 16"),
        ("omd", {"alpha": 0.0}, "algorithm.alpha must be positive, got 0"),
        ("omd", {"discount": 1.1}, r"algorithm.discount must lie in \[0, 1\], got 1.1"),
        ("omd", {"seeds": 0}, "algorithm.seeds must be at least 1, got 0"),
        ("omd", {"model_hiden_dim": 3}, "did you mean 'model_hidden_dim'"),
        ("omd_sac", {"agent": "vep"}, "algorithm.agent: unknown value 'vep'; legal: mle, omd"),
        ("omd_sac", {"tau": 1.5}, r"algorithm.tau must lie in \[0, 1\], got 1.5"),
        ("omd_sac", {"init_temperature": 0.0}, "init_temperature must be positive, got 0"),
        ("omd_sac", {"inner_steps": 0}, "algorithm.inner_steps must be at least 1, got 0"),
        ("omd_sac", {"buffer_size": 0}, "algorithm.buffer_size must be at least 1, got 0"),
        ("omd_sac", {"random_steps": -1}, "algorithm.random_steps must not be negative, got -1"),
        ("omd_sac", {"targetentropy": -1.0}, "did you mean 'target_entropy'"),
    ],
)
def test_wrong_options_are_named(tmp_path, kind, changes, message):
    with pytest.raises((ArgumentError, ConfigError), match=message):
        run(config(tmp_path, kind, **changes))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("max_episode_steps", None, "has no max_episode_steps"),
        ("uses_time", True, "depends on the time"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_task_that_does_not_fit_is_refused(kind, name, value, message, monkeypatch):
    task = mbrl.make_task(TASKS[kind], threads=1)
    monkeypatch.setattr(task, name, value)
    with pytest.raises(ArgumentError, match=message):
        KINDS[kind](Setting(task, {}, torch.Generator()), **TINY)
