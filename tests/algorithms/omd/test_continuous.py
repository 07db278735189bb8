"""OMD and MLE on MuJoCo: environments, evaluations, configuration; see test_seedwise, too."""

from pathlib import Path

import numpy as np
import pytest
import torch

import mbrl
from mbrl.algorithms import ContinuousOMD, Setting
from mbrl.errors import ArgumentError
from tests.algorithms.omd.runs import TASKS, TINY, made
from tests.tiny import command, rows, summary

CONFIG = Path(__file__).resolve().parents[3] / "configs" / "omd_half_cheetah.yaml"
TASK = TASKS["omd_sac"]  # its range is [-3, 3]


def test_what_is_remembered_is_what_the_task_does_under_scaled_actions():
    """Every transition is repeated by Gymnasium's environment, from where it began."""
    algorithm = made("omd_sac", seeds=1, steps=40, random_steps=30, task={"distractors": 1})
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
    algorithm = made("omd_sac", seeds=1, random_steps=20)
    monkeypatch.setattr(algorithm._task, "max_episode_steps", 3)
    algorithm.update()
    memory = algorithm.state_dict()["replay"]["rows"][:, 0]
    begins = (memory[1:, :4] != memory[:-1, 6:10]).any(1).nonzero()[:, 0] + 1
    assert begins.tolist() == [3, 6, 9, 12, 15, 18]
    assert bool((memory[:, -1] == 1).all())


def test_what_is_evaluated_is_the_mean_action():
    algorithm = made("omd_sac", seeds=2)
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


def test_policies_are_dealt_to_the_rows_in_turn():
    actor = made("omd_sac", seeds=2).actor()
    action = actor.act(np.ones((5, 4)))
    assert np.array_equal(action[:2], action[2:4])
    assert not np.array_equal(action[0], action[1])


def test_tasks_whose_actions_do_not_fit_are_refused(monkeypatch):
    def refused(task, message):
        with pytest.raises(ArgumentError, match=message):
            ContinuousOMD(Setting(task, {}, torch.Generator()), **TINY)

    refused(mbrl.make_task("CartPole-v1"), "CartPole-v1 does not fit algorithm.kind omd_sac")
    task = mbrl.make_task(TASK, threads=1)
    monkeypatch.setattr(task, "action_high", torch.tensor([torch.inf], dtype=torch.float64))
    refused(task, "actions without bounds")


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
    again = command(capsys, "--mode", "eval", "--run", done.run_dir)
    assert again.code == 0, again.err


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["omd", "mle"])
def test_a_pendulum_is_held_much_longer_than_by_chance(agent):
    by_chance = 6.0  # the mean length of episodes of uniform actions, rounded up
    algorithm = made(
        "omd_sac", agent=agent, seeds=2, updates=1, steps=3000, random_steps=500, eval_episodes=5,
        batch_size=64, hidden_dim=32, model_hidden_dim=32, lr=1e-3, model_lr=1e-3, tau=0.02,
        init_temperature=0.1,
    )  # fmt: skip
    found = algorithm.update()
    assert min(found["return_0"], found["return_1"]) > 4 * by_chance, found
