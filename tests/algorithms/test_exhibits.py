"""What learned_mpc has to show of an iteration."""

import gymnasium
import numpy as np
import pytest
import torch

from mbrl import finished_runs
from mbrl.algorithms import learned_mpc, model_errors
from mbrl.config import from_mapping
from mbrl.finished_runs import made_algorithm
from mbrl.tasks import make_task
from mbrl.types import Exhibits
from tests.exhibited import LEARNED, STEPS, states_of
from tests.tiny import same


def made(pause=lambda doing: None, **options):
    config = from_mapping({**LEARNED, "algorithm": {**LEARNED["algorithm"], **options}})
    task = finished_runs.training_task(config)
    return made_algorithm(config, task, torch.Generator().manual_seed(3), pause)


def equal(a, b):
    return (
        all(map(np.array_equal, a.open_loop[:2], b.open_loop[:2]))
        and a.episode.seed == b.episode.seed
        and np.array_equal(a.episode.actions, b.episode.actions)
    )


@pytest.fixture(scope="module")
def updated():
    algorithm = made()
    algorithm.update()
    first = algorithm.exhibits()
    algorithm.update()
    return algorithm, first, algorithm.exhibits()


def test_before_an_iteration_there_is_nothing():
    assert made().exhibits() == Exhibits(None, None)


def test_the_episode_repeats_bit_for_bit(updated):
    for found in updated[1:]:
        env = gymnasium.make("mbrl/HalfCheetahTorso-v0", max_episode_steps=STEPS)
        seen = [env.reset(seed=found.episode.seed)[0]]
        assert found.episode.actions.shape == (STEPS, 6)
        for action in found.episode.actions:
            observation, _, _, truncated, _ = env.step(action)
            seen.append(observation)
        assert truncated
        env.close()
        np.testing.assert_array_equal(found.open_loop.observed, np.stack(seen))
    assert not equal(*updated[1:])


def test_the_prediction_feeds_on_itself_alone(updated):
    """A rollout by hand: normalise, apply the network, put the change back, step after step."""
    algorithm, _, found = updated
    model = algorithm._learner.model
    observed, predicted, dt, names = found.open_loop
    assert (dt, names) == (0.01, None)
    state = torch.from_numpy(observed[0])
    expected = [state]
    for action in torch.from_numpy(found.episode.actions):
        inputs = (torch.cat([state, action]).float() - model.input_mean) / model.input_scale
        change = model.mean(inputs[None])[0].detach() * model.target_deviation + model.target_mean
        state = state + change.double()
        expected.append(state)
    np.testing.assert_allclose(predicted, torch.stack(expected).numpy(), rtol=1e-5, atol=1e-5)
    assert np.abs(predicted[1:] - observed[1:]).max() > 1e-2  # it is not what happened


def test_the_model_has_not_seen_the_episode():
    """Of the data before it, that is, whose moments the model has."""
    algorithm = made(fit={"epochs": 1, "statistics": "updated"})
    algorithm.update()
    algorithm.update()
    seen = [episode.observations.numpy() for episode in algorithm._data.episodes]
    np.testing.assert_array_equal(algorithm.exhibits().open_loop.observed, seen[6])
    mean = np.concatenate([one[:-1] for one in seen[:6]]).mean(0)
    found = algorithm._learner.model.input_mean[:20].numpy()
    np.testing.assert_allclose(found, mean, rtol=1e-5, atol=1e-6)


def test_of_a_long_episode_the_beginning_is_predicted(monkeypatch):
    monkeypatch.setattr(model_errors, "_SHOWN", 7)
    algorithm = made()
    algorithm.update()
    found = algorithm.exhibits()
    assert found.open_loop.observed.shape == found.open_loop.predicted.shape == (8, 20)
    assert found.episode.actions.shape == (STEPS, 6)


def test_states_are_shown_where_states_are_learned():
    algorithm = made(space="states", model={"kind": "mlp"})
    algorithm.update()
    found = algorithm.exhibits()
    expected = states_of(found.episode.actions, found.episode.seed)
    np.testing.assert_array_equal(found.open_loop.observed, expected)
    assert found.open_loop.predicted.shape == expected.shape


def test_showing_changes_nothing(updated, monkeypatch):
    monkeypatch.setattr(learned_mpc, "_exhibited", lambda *arguments: Exhibits())
    without = made()
    without.update()
    without.update()
    assert without.exhibits() == Exhibits(None, None)
    assert same(without.state_dict(), updated[0].state_dict())


class Stopped(Exception):
    pass


def test_an_iteration_that_is_gone_on_with_shows_the_same():
    reference = made()
    reference.update()
    pauses = []

    def pause(doing):
        pauses.append(1)
        if len(pauses) == 15:
            raise Stopped

    stopped = made(pause)
    with pytest.raises(Stopped):
        stopped.update()
    assert stopped.state_dict()["planned"] is not None  # it was among the episodes
    resumed = made()
    resumed.update()
    resumed.load_state_dict(stopped.state_dict())
    assert resumed.exhibits() == Exhibits(None, None)
    resumed.update()
    assert equal(resumed.exhibits(), reference.exhibits())


def test_a_task_without_physics_has_no_clock():
    algorithm = made()
    algorithm.update()
    task = make_task("mbrl/HalfCheetahTorso-v0")
    task.simulator = None
    episode = algorithm._data.episodes[0]
    found = learned_mpc._exhibited(task, algorithm._learner.model, 0, episode)
    assert found.open_loop.dt is None
