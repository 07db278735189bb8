"""Models learned alone: what they are fitted to, how runs go on, and what they hand out."""

import itertools
import os
import signal

import numpy as np
import pytest
import torch

import mbrl
from mbrl.algorithms import FitDynamics, Setting
from mbrl.algorithms.fit_dynamics import Resting
from mbrl.algorithms.optimizer import OptimizerOptions
from mbrl.config import from_mapping
from mbrl.data import Episode, Trajectories
from mbrl.errors import ArgumentError, ConfigError, DivergenceError
from mbrl.finished_runs import load_policy
from mbrl.runner import run
from mbrl.signals import Interrupted
from mbrl.tasks import collect, random_actions
from mbrl.types import Exhibits
from tests.nn.systems import seeded
from tests.tiny import newest, resume, rows, same, same_runs, stored

TASK = "mbrl/SmoothInvertedPendulum-v0"
SMALL = {"kind": "mlp", "hidden": [8], "activation": "tanh"}
ENSEMBLE = {"kind": "ensemble", "members": 3, "elites": 2, "hidden": [8]}


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Spare the disk."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def config(tmp_path):
    """Return a function that makes a configuration; keyword arguments are of the algorithm."""

    def make(**algorithm):
        options = {"updates": 4, "episodes": 6, "validation_episodes": 2, "steps": 20}
        return from_mapping(
            {
                "task": TASK,
                "algorithm": {"kind": "fit_dynamics", "model": SMALL, **options, **algorithm},
                "output_dir": str(tmp_path / "outputs"),
                "threads": 1,
                "evaluation": {"episodes": 1},
                "eval_task": "InvertedPendulum-v5",
                "checkpoint": {"every": 2},
            },
            "fit",
        )

    return make


def made(generator=None, **options):
    task = mbrl.make_task(TASK, threads=1)
    options = {"model": SMALL, "episodes": 4, "validation_episodes": 2, "steps": 20, **options}
    return FitDynamics(Setting(task, {}, generator or seeded(0)), **options)


def linear_episodes(count, steps=20, seed=0):
    """Episodes of x' = A x + B u with 4 coordinates and 1 action."""
    generator = seeded(seed)
    a = torch.eye(4, dtype=torch.float64) + 0.1 * torch.randn(4, 4, generator=seeded(9)).double()
    b = torch.randn(1, 4, generator=seeded(10)).double()
    found = Trajectories(4, 1)
    for _ in range(count):
        actions = torch.randn(steps, 1, generator=generator, dtype=torch.float64)
        states = [torch.randn(4, generator=generator, dtype=torch.float64)]
        for action in actions:
            states.append(0.9 * states[-1] @ a + action @ b)
        found.append([Episode(torch.stack(states), actions, torch.zeros(steps).double())])
    return found


# What it is fitted to


@pytest.mark.parametrize("space", ["states", "observations"])
def test_data_are_episodes_of_random_actions(space):
    made_ = made(space=space)
    measured = made_.update()
    state, task = made_.state_dict(), mbrl.make_task(TASK, threads=1)
    generator = seeded(0)
    made(generator)  # initial weights are drawn first
    act = random_actions(task, generator)
    for key, count in (("data", 4), ("validation", 2)):
        expected = Trajectories(4, 1)
        expected.append(
            collect(task, act, episodes=count, steps=20, generator=generator, space=space)
        )
        assert same(state[key], expected.state_dict())
    assert measured["env_steps"] == 6 * 20
    assert made_.update()["env_steps"] == 0


def test_a_walk_moves_actions_little_by_little():
    made_ = made(actions="random_walk", walk_sd=0.01, validation_episodes=0)
    made_.update()
    actions = made_.state_dict()["data"]["actions"].reshape(4, 20)
    assert float(actions.diff(dim=1).abs().max()) < 5 * 0.01 * 3  # half the range is 3
    assert float(actions[:, 0].std()) > 0.5  # begun uniformly


def test_data_may_come_from_a_file(tmp_path):
    episodes = linear_episodes(7)
    episodes.save(tmp_path / "data.npz")
    made_ = made(data=str(tmp_path / "data.npz"), validation_episodes=3)
    assert made_.update()["env_steps"] == 7 * 20
    state = made_.state_dict()
    parts = [state["data"], state["validation"]]
    assert [len(part["lengths"]) for part in parts] == [4, 3]
    # Each episode whole, in one of the two.
    found = torch.cat([part["observations"].reshape(-1, 21, 4) for part in parts])
    wanted = torch.stack([episode.observations for episode in episodes.episodes])
    assert {row.numpy().tobytes() for row in found} == {row.numpy().tobytes() for row in wanted}


def test_a_linear_system_is_learned(tmp_path):
    linear_episodes(30).save(tmp_path / "data.npz")
    made_ = made(
        data=str(tmp_path / "data.npz"),
        model={"kind": "mlp", "hidden": [], "dtype": "float64"},
        updates=60,
        batch_size=32,
        optimizer=OptimizerOptions(lr=0.05, final_lr=0.0),
        validation_episodes=5,
    )
    first = made_.update()
    for _ in range(59):
        last = made_.update()
    assert last["validation_one_step_error"] < 1e-3 < 0.1 < first["validation_one_step_error"]
    assert last["validation_open_loop_error"] < 1e-2
    fresh = linear_episodes(1, seed=5).transitions()
    torch.testing.assert_close(
        made_.model()(fresh.states, fresh.actions), fresh.next_states, rtol=0, atol=1e-2
    )


def test_what_it_shows_is_the_prediction_of_a_validation_episode():
    made_ = made()
    assert made_.exhibits() == Exhibits(None, None)
    made_.update()
    found, state = made_.exhibits().open_loop, made_.state_dict()
    here = state["validation"]["observations"][:1]
    np.testing.assert_array_equal(found.observed, state["validation"]["observations"][:21])
    for t, action in enumerate(state["validation"]["actions"][:20]):
        np.testing.assert_array_equal(found.predicted[t], here[0])
        here = made_.model()(here, action[None]).detach()
    assert found.dt == 0.04
    assert same(made_.state_dict(), state)


# Runs


def test_a_run_leaves_a_model_behind(config):
    result = run(config())
    found = rows(result.run_dir)
    assert [row["update"] for row in found] == ["1", "2", "3", "4"]
    columns = ("fit_loss", "validation_loss", "validation_one_step_error",
               "validation_open_loop_error")  # fmt: skip
    values = np.array([[float(row[column]) for column in columns] for row in found])
    assert np.isfinite(values).all()
    assert float(found[-1]["fit_loss"]) < float(found[0]["fit_loss"])
    assert result.summary["env_steps"] == 8 * 20
    # Nothing acts: the return is that of an environment left alone.
    task = mbrl.make_task("InvertedPendulum-v5", threads=1)
    env = task.make_env()
    env.reset(seed=10_000)
    alone = 0.0
    for _ in range(1000):
        _, reward, terminated, _, _ = env.step(np.zeros(1))
        alone += reward
        if terminated:
            break
    assert result.summary["eval_return_mean"] == alone < 1000
    np.testing.assert_array_equal(
        load_policy(result.run_dir).act(np.ones((3, 4))), np.zeros((3, 1))
    )


@pytest.mark.parametrize("model", [SMALL, ENSEMBLE])
def test_the_model_of_a_run_is_the_trained_one(config, monkeypatch, model):
    trained, update = set(), FitDynamics.update
    monkeypatch.setattr(FitDynamics, "update", lambda self: trained.add(self) or update(self))
    path = run(config(model=model, patience=1)).run_dir
    (algorithm,) = trained
    states, actions = torch.randn(9, 4, dtype=torch.float64), torch.randn(9, 1, dtype=torch.float64)
    expected = algorithm.model()(states, actions)
    assert torch.equal(mbrl.load_dynamics(path)(states, actions), expected)


@pytest.mark.parametrize("update", [1, 2, 3])
@pytest.mark.parametrize("model", [SMALL, ENSEMBLE])
def test_a_run_that_was_stopped_continues_bit_for_bit(config, monkeypatch, update, model):
    reference = run(config(model=model, patience=2)).run_dir
    original = FitDynamics.update
    left = itertools.count(1)

    def stopping(self):
        if next(left) == update:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self)

    monkeypatch.setattr(FitDynamics, "update", stopping)
    with pytest.raises(Interrupted):
        run(config(model=model, patience=2))
    path = newest(reference.parent)
    # The first update is stopped in its middle, with the data in hand.
    assert stored(path)["update"] == (0 if update == 1 else update)
    assert len(stored(path)["algorithm"]["data"]["lengths"]) == 6
    resume(path)
    assert same_runs(path, reference)


def test_a_fit_that_diverges_is_as_before_the_epoch(monkeypatch):
    made_ = made()
    made_.update()
    before = made_.state_dict()
    before = {**before, "learner": before["learner"], "training": _copied(before["training"])}
    losses = type(made_._model).losses
    monkeypatch.setattr(type(made_._model), "losses", lambda *a: losses(*a) * torch.inf)
    with pytest.raises(DivergenceError, match="is not finite in epoch 1"):
        made_.update()
    assert same(made_.state_dict()["training"]["model"], before["training"]["model"])
    assert same(made_.state_dict()["generator"], before["generator"])


def _copied(state):
    return {**state, "model": {name: value.clone() for name, value in state["model"].items()}}


# Patience


def test_patience_ends_the_fit_and_hands_out_the_best_epoch(tmp_path):
    """Few data, many epochs: the network learns them by heart, and the validation loss rises."""
    linear_episodes(3, steps=4).save(tmp_path / "data.npz")

    def fit(patience):
        return made(
            data=str(tmp_path / "data.npz"),
            model={"kind": "mlp", "hidden": [64, 64], "dtype": "float64"},
            validation_episodes=2,
            updates=400,
            optimizer=OptimizerOptions(lr=0.01),
            patience=patience,
        )

    made_, patient = fit(5), fit(None)
    losses, weights = [], []
    while len(losses) < made_.updates:
        losses.append(made_.update()["validation_loss"])
        weights.append({n: p.detach().clone() for n, p in made_._model.named_parameters()})
    assert made_.updates == len(losses) < 400
    # By hand: the last epoch that was better by 1 %, and six that were not.
    best, at = float("inf"), -1
    for i, loss in enumerate(losses):
        if loss < 0.99 * best:
            best, at = loss, i
    assert at == len(losses) - 1 - 6
    handed = dict(made_.model().named_parameters())
    assert all(torch.equal(handed[name], value) for name, value in weights[at].items())
    # What is handed out meanwhile does not meddle with the training.
    assert [patient.update()["validation_loss"] for _ in losses] == losses


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"updates": 0}, "algorithm.updates must be at least 1, got 0"),
        ({"validation_episodes": -1}, "algorithm.validation_episodes must not be negative, got -1"),
        ({"walk_sd": 0.0}, "algorithm.walk_sd must be positive, got 0.0"),
        (
            {"patience": 2, "validation_episodes": 0},
            "algorithm.patience takes validation_episodes, got 2; legal: null",
        ),
        (
            {"model": ENSEMBLE, "validation_episodes": 0},
            "algorithm.model.elites: choosing 2 of 3 members takes held-out data",
        ),
        (
            {"model": {**ENSEMBLE, "elites": 9}},
            r"algorithm.model.elites must be from 1 to members \(3\), got 9",
        ),
    ],
)
def test_options_out_of_range(config, options, message):
    with pytest.raises((ArgumentError, ConfigError), match=message):
        run(config(**options))


def test_a_file_that_does_not_fit(tmp_path):
    path = tmp_path / "data.npz"
    with pytest.raises(ArgumentError, match=r"algorithm.data: .*data.npz: cannot be read as traj"):
        made(data=str(path)).update()
    linear_episodes(2).save(path)
    expected = r"algorithm.validation_episodes must leave episodes to fit to, got 2 of the 2 in"
    with pytest.raises(ArgumentError, match=expected):
        made(data=str(path)).update()
    wide = Trajectories(5, 1)
    wide.append([Episode(torch.zeros(3, 5), torch.zeros(2, 1), torch.zeros(2))])
    wide.save(path)
    expected = (
        r"algorithm.data: .* holds 5 coordinates and 1 actions, "
        r"mbrl/SmoothInvertedPendulum-v0 has 4 \(states\) and 1"
    )
    with pytest.raises(ArgumentError, match=expected):
        made(data=str(path)).update()


def test_rest_is_the_nearest_to_zero_that_is_allowed():
    class Bounds:
        action_size = 3
        action_low = torch.tensor([-1.0, 0.2, -torch.inf], dtype=torch.float64)
        action_high = torch.tensor([1.0, 0.5, -3.0], dtype=torch.float64)

    rest = Resting(Bounds())
    np.testing.assert_array_equal(rest.act(np.zeros((2, 5))), [[0.0, 0.2, -3.0]] * 2)
    np.testing.assert_array_equal(rest.act(np.zeros(5)), [0.0, 0.2, -3.0])
