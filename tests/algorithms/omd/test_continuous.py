"""Runs of OMD and MLE on MuJoCo: seeds together and alone, stopped and continued."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

import mbrl
from mbrl.algorithms import ContinuousOMD, Setting
from mbrl.algorithms.omd.members import Members
from mbrl.algorithms.omd.sac_agents import MLEActorCritic, OMDActorCritic
from mbrl.config import from_mapping
from mbrl.errors import ArgumentError, ConfigError, DivergenceError
from mbrl.finished_runs import load_policy
from mbrl.runner import run
from mbrl.signals import Interrupted
from tests.tiny import command, resume, rows, same, same_runs, stored, summary

CONFIG = Path(__file__).resolve().parents[3] / "configs" / "omd_half_cheetah.yaml"
TINY = {
    "seeds": 2,
    "updates": 3,
    "steps": 12,
    "random_steps": 15,
    "eval_episodes": 2,
    "batch_size": 8,
    "hidden_dim": 8,
    "model_hidden_dim": 4,
    "lr": 0.01,
}
TASK = "InvertedPendulum-v5"  # its range is [-3, 3], and it falls


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Spare the disk."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def made(seed=0, task=TASK, distractors=0, **options):
    made_task = mbrl.make_task(task, threads=1, distractors=distractors)
    setting = Setting(made_task, {}, torch.Generator().manual_seed(seed))
    return ContinuousOMD(setting, **{**TINY, **options})


def config(folder, **changes):
    content = {
        "task": TASK,
        "task_args": {"distractors": 1},
        "seed": 4,
        "threads": 1,
        "algorithm": {"kind": "omd_sac", **TINY, **changes},
        "evaluation": {"episodes": 3},
        "checkpoint": {"every": 1},
        "output_dir": str(folder),
    }
    return from_mapping(content, "tiny")


@pytest.mark.parametrize(
    "options", [{"agent": "omd", "distractors": 2}, {"agent": "mle", "outer_steps": 2}], ids=str
)
def test_a_seed_of_several_is_that_seed_alone(options):
    together = made(seed=7, **options, dtype="float64")
    alone = [made(seed=7 + i, **options, dtype="float64", seeds=1) for i in range(2)]
    for _ in range(3):
        found = together.update()
        for i, single in enumerate(alone):
            expected = single.update()[f"return_{7 + i}"]
            assert found[f"return_{7 + i}"] == pytest.approx(expected, rel=1e-9)
    state = together.state_dict()
    for i, single in enumerate(alone):
        other = single.state_dict()
        for name in ("phi", "w", "w_", "theta", "log_temperature"):
            torch.testing.assert_close(
                state["agent"][name][i], other["agent"][name][0], rtol=1e-7, atol=1e-9
            )
        torch.testing.assert_close(state["replay"]["rows"][:, i], other["replay"]["rows"][:, 0])
        assert torch.equal(state["generators"][i], other["generators"][0])
    assert not torch.equal(state["agent"]["w"][0], state["agent"]["w"][1])


def test_what_is_remembered_is_what_the_task_does_under_scaled_actions():
    """Every transition is repeated by Gymnasium's environment, from where it began."""
    algorithm = made(seeds=1, updates=1, steps=40, random_steps=30, distractors=1)
    algorithm.update()
    widths = [5, 1, 1, 5, 1]
    memory = algorithm.state_dict()["replay"]["rows"][:, 0].double()
    observation, action, reward, following, mask = memory.split(widths, 1)
    env = mbrl.make_task(TASK, threads=1).make_env().unwrapped
    env.reset(seed=0)
    for i in range(40):
        env.set_state(observation[i, :2].numpy(), observation[i, 2:4].numpy())
        wanted, earned, terminated, *_ = env.step(3 * action[i].numpy())
        np.testing.assert_allclose(following[i, :4], wanted, atol=1e-4)
        assert float(reward[i]) == earned
        assert bool(mask[i] == 0) == terminated
    ended = (mask[:-1, 0] == 0).nonzero()[:, 0]
    assert len(ended) >= 2
    gaps = (observation[1:] - following[:-1]).abs().amax(1)
    assert bool((gaps[ended] > 0).all())
    assert float(gaps[mask[:-1, 0] == 1].max()) == 0
    assert float(action.abs().max()) < 1
    assert 0.4 < float(action[:30].std()) < 0.75, "uniform in [-1, 1]: 0.58"
    assert 0.5 < float(memory[:, 4].std()) < 1.6, "a standard normal distractor"


def test_an_episode_that_is_cut_bootstraps(monkeypatch):
    algorithm = made(seeds=1, updates=1, steps=20, random_steps=20)
    monkeypatch.setattr(algorithm._task, "max_episode_steps", 3)
    algorithm.update()
    memory = algorithm.state_dict()["replay"]["rows"][:, 0]
    begins = (memory[1:, :4] != memory[:-1, 6:10]).any(1).nonzero()[:, 0] + 1
    assert begins.tolist() == [3, 6, 9, 12, 15, 18]
    assert bool((memory[:, -1] == 1).all())


def test_what_an_update_measures():
    algorithm = made(seed=3)
    for update in range(3):
        before = algorithm.state_dict()["agent"]["w"]
        found = algorithm.update()
        learned = not torch.equal(before, algorithm.state_dict()["agent"]["w"])
        assert learned == (update > 0), "the first 15 steps are random, then one update each"
        each = [found[f"return_{seed}"] for seed in (3, 4)]
        assert found["return_mean"] == pytest.approx(np.mean(each))
        assert found["return_std"] == pytest.approx(np.std(each))
        assert found["env_steps"] == 12
    assert {"critic_loss", "actor_loss", "temperature", "entropy"} < found.keys()
    assert {"model_error", "reward_error", "grad_norm_model"} < found.keys()


@pytest.mark.parametrize("agent", [("omd", OMDActorCritic), ("mle", MLEActorCritic)], ids=str)
def test_updates_are_one_a_step_after_the_random_ones(agent, monkeypatch):
    kind, agent_type = agent
    algorithm, sizes = made(agent=kind, steps=250, random_steps=15, outer_steps=2), []

    def update(self, draw):
        batches = [draw() for _ in range(self.batches)]
        sizes.append((len(algorithm._replay), *(batch.mask.shape for batch in batches)))

    monkeypatch.setattr(agent_type, "update", update)
    algorithm.update()
    assert sizes == [(n, (2, 8), (2, 8)) for n in range(16, 251)]


def test_what_is_evaluated_is_the_mean_action():
    algorithm = made(seeds=2)
    algorithm.update(), algorithm.update()
    actor, learner = algorithm.actor(), algorithm._learner
    observation = np.random.default_rng(0).normal(size=(4, 4))
    found = actor.act(observation)
    assert found.dtype == np.float64
    for row in range(4):
        seen = torch.from_numpy(observation[row]).float().expand(2, 1, -1)
        output = learner.actor.network.forward(learner.phi, seen).output[row % 2, 0].numpy()
        np.testing.assert_allclose(found[row], 3 * np.tanh(output[:1]), rtol=1e-5)
    returns = []
    env = mbrl.make_task(TASK, threads=1)
    generator = torch.Generator()
    generator.set_state(algorithm._seeds.looking[0].get_state())
    wanted = algorithm.update()
    learned = algorithm.actor()
    state = env.reset(2, generator)
    for episode in range(2):
        one, total, over = state[episode : episode + 1], 0.0, False
        while not over and total < 1000:
            action = learned.act(env.observe(one).numpy())
            step = env.step(one, torch.from_numpy(action))
            one, over, total = step.next_state, bool(step.terminated), total + float(step.reward)
        returns.append(total)
    assert wanted["return_0"] == np.mean(returns)


@pytest.mark.parametrize(
    "options", [{"agent": "omd"}, {"agent": "mle", "buffer_size": 20}], ids=str
)
def test_a_run_continues_bit_for_bit(tmp_path, options):
    reference = run(config(tmp_path, **options)).run_dir
    stopped = run(config(tmp_path, **options, updates=1)).run_dir
    longer = config(tmp_path, **options)
    assert run(longer, resume=stopped).run_dir == stopped
    assert same_runs(reference, stopped)
    memories = [path / "checkpoints" / "replay.bin" for path in (reference, stopped)]
    assert memories[0].read_bytes() == memories[1].read_bytes()
    assert memories[0].stat().st_size == 36 * 2 * 4 * (5 + 1 + 1 + 5 + 1)
    assert resume(stopped).summary["updates"] == 3, "nothing is left to do"
    assert len(rows(reference)) == 3
    assert summary(reference)["env_steps"] == 36


def test_a_run_that_is_stopped_in_the_middle_of_an_update_goes_on_there(tmp_path, monkeypatch):
    monkeypatch.setattr("mbrl.algorithms.omd.continuous._CHUNK", 5)
    reference = run(config(tmp_path)).run_dir
    original, seen = Members.step, []

    def step(self, *arguments):
        seen.append(arguments)
        if len(seen) == 19:  # in the second part of the second update
            os.kill(os.getpid(), 15)
        original(self, *arguments)

    monkeypatch.setattr(Members, "step", step)
    with pytest.raises(Interrupted) as stopped:
        run(config(tmp_path))
    monkeypatch.setattr(Members, "step", original)
    assert len(seen) == 22
    state = stored(stopped.value.run_dir)
    assert (state["update"], state["algorithm"]["taken"]) == (1, 10)
    resume(stopped.value.run_dir)
    assert same_runs(reference, stopped.value.run_dir)


def test_a_finished_run_hands_out_its_policies(tmp_path):
    found = run(config(tmp_path))
    policy = load_policy(found.run_dir)
    weights = stored(found.run_dir)["algorithm"]["agent"]["phi"]
    assert not torch.equal(made(seed=4, distractors=1).state_dict()["agent"]["phi"], weights)
    action = policy.act(np.ones((5, 5)))
    assert action.shape == (5, 1)
    assert np.array_equal(action[:2], action[2:4])
    assert not np.array_equal(action[0], action[1])
    assert found.summary["eval_episodes"] == 3


def test_physics_that_diverge_are_undone(monkeypatch):
    algorithm = made()
    algorithm.update()
    before, calls = algorithm.state_dict(), []
    original = Members.step

    def step(self, *arguments):
        calls.append(arguments)
        if len(calls) == 7:
            raise DivergenceError("the simulation diverged in rows [1]", [1])
        original(self, *arguments)

    monkeypatch.setattr(Members, "step", step)
    with pytest.raises(DivergenceError, match="rows"):
        algorithm.update()
    assert same(before, algorithm.state_dict())
    monkeypatch.undo()
    again = made()
    again.update()
    assert same(again.update(), algorithm.update())
    assert same(again.state_dict(), algorithm.state_dict())


def test_what_is_no_longer_finite_is_refused_and_undone(monkeypatch):
    algorithm = made()
    algorithm.update()
    before = algorithm.state_dict()
    original = OMDActorCritic.update

    def update(self, draw):
        original(self, draw)
        self.phi.flat[1, 3] = torch.nan

    monkeypatch.setattr(OMDActorCritic, "update", update)
    with pytest.raises(DivergenceError, match=r"no longer finite, those of seeds \[1\]"):
        algorithm.update()
    assert same(before, algorithm.state_dict())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"agent": "vep"}, r"algorithm.agent: unknown value 'vep'; legal: mle, omd"),
        ({"tau": 1.5}, r"algorithm.tau must lie in \[0, 1\], got 1.5"),
        ({"init_temperature": 0.0}, "algorithm.init_temperature must be positive, got 0"),
        ({"inner_steps": 0}, "algorithm.inner_steps must be at least 1, got 0"),
        ({"buffer_size": 0}, "algorithm.buffer_size must be at least 1, got 0"),
        ({"random_steps": -1}, "algorithm.random_steps must not be negative, got -1"),
        ({"targetentropy": -1.0}, "did you mean 'target_entropy'"),
    ],
)
def test_wrong_options_are_named(tmp_path, changes, message):
    with pytest.raises((ArgumentError, ConfigError), match=message):
        run(config(tmp_path, **changes))


def test_tasks_that_do_not_fit_are_refused():
    def refused(task, message):
        with pytest.raises(ArgumentError, match=message):
            ContinuousOMD(Setting(task, {}, torch.Generator()), **TINY)

    refused(mbrl.make_task("CartPole-v1"), "CartPole-v1 does not fit algorithm.kind omd_sac")
    task = mbrl.make_task(TASK, threads=1)
    for name, value, message in (
        ("action_high", torch.tensor([torch.inf]).double(), "actions without bounds"),
        ("max_episode_steps", None, "has no max_episode_steps"),
        ("uses_time", True, "depends on the time"),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(task, name, value)
            refused(task, message)


def test_the_shipped_configuration_runs(tmp_path, capsys):
    small = {
        **{name: TINY[name] for name in ("steps", "random_steps", "batch_size", "hidden_dim")},
        "updates": 2,
        "eval_episodes": 1,
    }
    options = [f"algorithm.{name}={value}" for name, value in small.items()]
    done = command(
        capsys, "--config-file", CONFIG, *options, "evaluation.episodes=1", "threads=1",
        "task_args.distractors=3", f"output_dir={tmp_path}",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert (summary(done.run_dir)["task"], len(rows(done.run_dir))) == ("HalfCheetah-v5", 2)
    assert np.isfinite(float(rows(done.run_dir)[1]["return_42"]))
    again = command(capsys, "--config-file", CONFIG, "--mode", "eval", "--run", done.run_dir)
    assert again.code == 0, again.err


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["omd", "mle"])
def test_a_pendulum_is_held_much_longer_than_by_chance(agent):
    by_chance = 6.0  # the mean length of episodes of uniform actions, rounded up
    algorithm = made(
        agent=agent, seeds=2, updates=1, steps=3000, random_steps=500, eval_episodes=5,
        batch_size=64, hidden_dim=32, model_hidden_dim=32, lr=1e-3, model_lr=1e-3, tau=0.02,
        init_temperature=0.1,
    )  # fmt: skip
    found = algorithm.update()
    assert min(found["return_0"], found["return_1"]) > 4 * by_chance, found
