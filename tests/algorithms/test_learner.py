"""Models while they are learned: against fits that nobody interrupted, NumPy, and Adam by hand."""

import io

import numpy as np
import pytest
import torch

import mbrl
from mbrl.algorithms.learner import FitOptions, Learner, described
from mbrl.data import Episode, Trajectories, split_transitions
from mbrl.errors import ArgumentError, DivergenceError
from mbrl.nn import EnsembleDynamics, MLPDynamics
from tests.nn.systems import DRIFT, A, B, normal, seeded

LENGTHS = (20, 7, 33)


def trajectories(seed=0, lengths=LENGTHS, noise=0.0):
    """Episodes of x' = A x + B u + c."""
    data = Trajectories(3, 2)
    for i, length in enumerate(lengths):
        states, actions = [normal(seed + i, 3)], normal(seed + 10 + i, length, 2)
        for t, action in enumerate(actions):
            states.append(A @ states[-1] + B @ action + DRIFT + noise * normal(100 + t, 3))
        rewards = normal(seed + 20 + i, length)
        data.append([Episode(torch.stack(states), actions, rewards)])
    return data


def mlp(seed=0, **options):
    return MLPDynamics(3, 2, seeded(seed), **{"hidden": (8,), **options})


def ensemble(seed=0, **options):
    options = {"hidden": (8,), "members": 3, "elites": 2, "reward": True, **options}
    return EnsembleDynamics(3, 2, seeded(seed), **options)


class Stopped(Exception):
    """Somebody asked for a pause."""


def never(doing):
    """Go on."""


class After:
    """A pause that stops at its n-th call."""

    def __init__(self, calls):
        self.left = calls

    def __call__(self, doing):
        self.left -= 1
        if self.left == 0:
            raise Stopped


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def fitted(learner, data, pause):
    learner.fit(data, pause)
    return learner.finish()


SETTINGS = {
    "mlp": (mlp, {"epochs": 4}),
    "mlp, held out": (mlp, {"epochs": 4, "held_out": 0.2, "statistics": "updated"}),
    "ensemble": (ensemble, {"epochs": 5, "held_out": 0.3, "patience": 0, "learning_rate": 0.1}),
    "ensemble, updated": (ensemble, {"epochs": 4, "held_out": 0.1, "statistics": "updated"}),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_fit_that_was_put_by_goes_on_bit_for_bit(name):
    make, options = SETTINGS[name]
    options = FitOptions(**{"batch_size": 16, **options})
    first, later = trajectories(), trajectories()
    later.append(trajectories(5, (11, 4)).episodes)

    def made(seed):
        generator = seeded(seed)
        return Learner(make(seed), options, generator), generator

    def learned(learner, pauses):
        measured = []
        for data in (first, later):
            measured.append(fitted(learner, data, pauses.append))
        return measured

    whole, generator = made(1)
    pauses: list = []
    expected, end = learned(whole, pauses), whole.state_dict()
    if options.patience == 0:
        assert len(pauses) < 2 * (1 + options.epochs), "patience was spent"
    for stop in range(1, len(pauses) + 1):
        learner, drawn = made(1)
        pause, done, reports = After(stop), [], []
        try:
            for data in (first, later):
                done.append(data)
                reports.append(fitted(learner, data, pause))
        except Stopped:
            stored = io.BytesIO()
            torch.save([learner.state_dict(), drawn.get_state()], stored)
        stored.seek(0)
        state, position = torch.load(stored, weights_only=True)
        again, drawn = made(2)  # another generator, and other weights
        again.load_state_dict(state, done[-1])
        drawn.set_state(position)
        reports += [fitted(again, data, never) for data in (first, later)[len(done) - 1 :]]
        assert reports == expected
        assert same(again.state_dict(), end)
        assert torch.equal(drawn.get_state(), generator.get_state())


def test_what_was_kept_does_not_change():
    data = trajectories()
    learner = Learner(ensemble(), FitOptions(epochs=3, held_out=0.2), seeded())
    with pytest.raises(Stopped):
        fitted(learner, data, After(2))
    stored = io.BytesIO()
    torch.save(learner.state_dict(), stored)
    stored.seek(0)
    kept, before = learner.state_dict()["fitting"], torch.load(stored, weights_only=True)
    fitted(learner, data, never)
    assert same(kept, before["fitting"])


def statistics(data):
    """Moments of inputs and of changes, in NumPy."""
    states, actions, following, _ = (part.numpy() for part in data.transitions())
    inputs, changes = np.concatenate([states, actions], axis=1), following - states
    return inputs.mean(0), inputs.std(0), changes.mean(0), changes.std(0)


@pytest.mark.parametrize("how", ["frozen", "updated"])
def test_statistics_are_those_of_the_first_data_or_of_all(how):
    first, later = trajectories(), trajectories()
    later.append(trajectories(5, (40,)).episodes)
    model = mlp(dtype="float64")
    learner = Learner(model, FitOptions(epochs=1, statistics=how), seeded())
    for data, expected in ((first, first), (later, first if how == "frozen" else later)):
        fitted(learner, data, never)
        mean, deviation, shift, scale = statistics(expected)
        np.testing.assert_allclose(model.input_mean, mean, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(model.input_scale, deviation + 1e-7, rtol=1e-12)
        np.testing.assert_allclose(model.target_mean, shift, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(model.target_deviation, scale, rtol=1e-12)
    assert not np.allclose(statistics(first)[0], statistics(later)[0], rtol=1e-3)


def test_frozen_statistics_stay_frozen_after_a_resumption():
    first, later = trajectories(), trajectories(5, (40,))
    learner = Learner(mlp(dtype="float64"), FitOptions(epochs=1), seeded())
    fitted(learner, first, never)
    again = Learner(mlp(1, dtype="float64"), FitOptions(epochs=1), seeded())
    again.load_state_dict(learner.state_dict(), later)
    fitted(again, later, never)
    np.testing.assert_allclose(again.model.input_mean, statistics(first)[0], rtol=1e-12, atol=1e-14)


def test_fits_are_those_of_one_adam_on_the_mean_squared_error_of_all_data():
    first, later = trajectories(), trajectories()
    later.append(trajectories(5, (11,)).episodes)
    model = mlp(hidden=(), dtype="float64")
    with torch.no_grad():  # Adam would make much of the rounding of a gradient that is zero
        model.network[0].bias += 1
    options = FitOptions(epochs=3, batch_size=1000, learning_rate=0.01)
    learner = Learner(model, options, seeded())
    weights = np.concatenate([p.detach().numpy().reshape(3, -1) for p in model.parameters()], 1)
    measured = [fitted(learner, data, never) for data in (first, later)]
    mean, deviation, shift, scale = statistics(first)
    moments, losses = (np.zeros_like(weights), np.zeros_like(weights)), []
    for step in range(6):
        states, actions, following, _ = (
            part.numpy() for part in (first if step < 3 else later).transitions()
        )
        z = (np.concatenate([states, actions], axis=1) - mean) / (deviation + 1e-7)
        z = np.concatenate([z, np.ones((len(z), 1))], axis=1)
        error = z @ weights.T - (following - states - shift) / (scale + 1e-7)
        losses.append((error**2).mean())
        gradient = 2 * error.T @ z / error.size
        one, two = moments
        moments = 0.9 * one + 0.1 * gradient, 0.999 * two + 0.001 * gradient**2
        one, two = moments[0] / (1 - 0.9 ** (step + 1)), moments[1] / (1 - 0.999 ** (step + 1))
        weights = weights - 0.01 * one / (np.sqrt(two) + 1e-8)
    found = np.concatenate([p.detach().numpy().reshape(3, -1) for p in model.parameters()], 1)
    np.testing.assert_allclose(found, weights, rtol=0, atol=1e-9)
    assert [row["fit_epochs"] for row in measured] == [3.0, 3.0]
    for row, loss in zip(measured, (losses[2], losses[5]), strict=True):
        assert row["fit_loss"] == pytest.approx(loss, rel=1e-9)
        assert "held_out_loss" not in row


@pytest.mark.parametrize(("epochs", "least", "made"), [(2, 17, 6), (7, 17, 7), (2, 0, 2)])
def test_few_data_are_visited_until_there_were_steps_enough(epochs, least, made):
    """60 transitions, 12 of them held out: an epoch has three batches of 16."""
    steps = []

    class Watched(MLPDynamics):
        def losses(self, inputs, targets):
            steps.append(len(inputs[0]))
            return super().losses(inputs, targets)

    options = FitOptions(epochs=epochs, min_steps=least, batch_size=16, held_out=0.2)
    measured = fitted(
        Learner(Watched(3, 2, seeded(), hidden=()), options, seeded()), trajectories(), never
    )
    assert steps == [16] * 3 * made
    assert measured["fit_epochs"] == made


def test_a_share_is_held_out_and_judged_and_not_fitted():
    seen = []

    class Watched(MLPDynamics):
        def losses(self, inputs, targets):
            seen.append((inputs.detach()[0], targets.detach()[0]))
            return super().losses(inputs, targets)

    data, model = trajectories(noise=0.3), Watched(3, 2, seeded(), hidden=(), dtype="float64")
    options = FitOptions(epochs=2, batch_size=1000, held_out=0.25)
    measured = fitted(Learner(model, options, seeded()), data, never)
    everything = data.transitions()
    inputs = model.normalized(everything.states, everything.actions)
    kept = (inputs[:, None] == seen[0][0]).all(-1).any(1)
    assert len(seen) == 2
    assert (~kept).sum() == 15  # a quarter of 60
    rest = seen[1][0]
    assert {tuple(row) for row in rest.tolist()} == {tuple(row) for row in seen[0][0].tolist()}
    with torch.no_grad():
        predicted = model(everything.states, everything.actions)
    error = (predicted - everything.next_states)[~kept] / (model.target_deviation + 1e-7)
    assert measured["held_out_loss"] == pytest.approx(float(error.square().mean()), rel=1e-5)


def test_every_fit_holds_other_transitions_out():
    chosen = []

    class Watched(MLPDynamics):
        def squared_errors(self, inputs, targets):
            chosen.append({tuple(row) for row in targets.tolist()})
            return super().squared_errors(inputs, targets)

    learner = Learner(
        Watched(3, 2, seeded(), hidden=()), FitOptions(epochs=2, held_out=0.25), seeded()
    )
    data = trajectories()
    for _ in range(2):
        fitted(learner, data, never)
    assert chosen[0] == chosen[1]
    assert chosen[2] == chosen[3] != chosen[0]


def test_a_loss_that_is_not_finite_leaves_all_as_it_was_before_the_epoch():
    data, generator, model = trajectories(), seeded(), mlp()
    learner = Learner(model, FitOptions(epochs=4, batch_size=16), generator)
    states = []

    def note(doing):
        stored = io.BytesIO()
        torch.save([learner.state_dict(), generator.get_state()], stored)
        states.append(stored)
        if len(states) == 3:  # before the third epoch
            for group in learner._optimizer.param_groups:
                group["lr"] = 1e30
            torch.save([learner.state_dict(), generator.get_state()], stored := io.BytesIO())
            states[-1] = stored

    with pytest.raises(DivergenceError, match="is not finite in epoch 2"):
        fitted(learner, data, note)
    assert len(states) == 3
    states[-1].seek(0)
    before = torch.load(states[-1], weights_only=True)
    assert same([learner.state_dict(), generator.get_state()], before)
    for group in learner._optimizer.param_groups:
        group["lr"] = 1e-3
    measured = fitted(learner, data, never)  # goes on in the third epoch
    undisturbed = Learner(mlp(), FitOptions(epochs=4, batch_size=16), seeded())
    assert fitted(undisturbed, data, never) == measured
    assert same(undisturbed.state_dict(), learner.state_dict())


def test_the_first_epoch_may_fail_as_well():
    data, generator, model = trajectories(), seeded(), mlp()
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    options, states = FitOptions(learning_rate=1e30, batch_size=16), []
    learner = Learner(model, options, generator)
    with pytest.raises(DivergenceError, match="is not finite in epoch 0"):
        fitted(learner, data, lambda doing: states.append(generator.get_state()))
    assert all(torch.equal(p, weights[name]) for name, p in model.named_parameters())
    (position,) = states  # it paused when the fit began
    assert torch.equal(generator.get_state(), position)
    assert learner.state_dict()["optimizer"]["state"] == {}


def test_a_fit_is_over_when_it_is_finished():
    learner, data = Learner(mlp(), FitOptions(epochs=2), seeded()), trajectories()
    with pytest.raises(ArgumentError, match="no fit has begun"):
        learner.finish()
    learner.fit(data, never)
    weights = learner.model.network[0].weight.detach().clone()
    learner.fit(data, never)  # there is nothing left to do
    assert torch.equal(learner.model.network[0].weight, weights)
    assert learner.finish()["fit_epochs"] == 2
    learner.fit(data, never)
    assert not torch.equal(learner.model.network[0].weight, weights)


def test_elites_that_nothing_can_choose_are_refused_at_once():
    with pytest.raises(ArgumentError, match="choosing 2 of 3 members takes held-out data"):
        Learner(ensemble(), FitOptions(), seeded())
    Learner(ensemble(), FitOptions(held_out=0.1), seeded())
    Learner(ensemble(elites=None), FitOptions(), seeded())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"min_steps": -1}, "min_steps must not be negative, got -1"),
        ({"learning_rate": 0.0}, "learning_rate must be positive, got 0.0"),
        ({"held_out": 1.0}, r"held_out must lie in \[0, 1\), got 1.0"),
        ({"held_out": -0.1}, r"held_out must lie in \[0, 1\), got -0.1"),
        ({"held_out": float("nan")}, r"held_out must lie in \[0, 1\), got nan"),
        ({"patience": 3}, "patience must not be negative and takes held_out data, got 3"),
        ({"patience": -1, "held_out": 0.1}, "patience must not be negative"),
    ],
)
def test_options_out_of_range_are_named(options, message):
    with pytest.raises(ArgumentError, match=f"^{message}"):
        FitOptions(**options)


def test_what_is_reported_of_held_out_data_is_of_the_parameters_in_place():
    data = trajectories(noise=0.3)
    options = FitOptions(epochs=60, batch_size=8, learning_rate=0.1, held_out=0.3, patience=2)
    learner, drawn = Learner(mlp(dtype="float64"), options, seeded(4)), seeded(4)
    measured = fitted(learner, data, never)
    assert measured["fit_epochs"] < 60
    splitting = seeded(int(torch.randint(2**31 - 1, (), generator=drawn)))
    _, rest = split_transitions(data.transitions(), 0.3, splitting)
    model = learner.model
    with torch.no_grad():
        outputs = model.mean(model.normalized(rest.states, rest.actions))
    expected = float((outputs - model.targets(rest)).square().mean())
    assert measured["held_out_loss"] == pytest.approx(expected, rel=1e-12)


def test_a_share_of_few_data_must_be_a_transition_at_least():
    learner = Learner(mlp(), FitOptions(held_out=0.01), seeded())
    with pytest.raises(ArgumentError, match=r"held_out: 0.01 of 12 .* none; legal: at least 0.083"):
        learner.fit(trajectories(5, (12,)), never)


def test_models_of_states_know_which_of_them_are_quaternions():
    task = mbrl.make_task("Ant-v5", threads=1)
    of_states = described({"kind": "mlp"}, task, "states")
    assert (of_states.state_size, of_states.quaternions) == (29, [[3, 4, 5, 6]])
    of_observations = described({"kind": "mlp"}, task, "observations")
    assert (of_observations.state_size, of_observations.quaternions) == (105, [])
    model = of_states.build(seeded())
    model.set_statistics(
        inputs=(torch.zeros(37), torch.ones(37)), differences=(torch.zeros(29), torch.ones(29))
    )
    states = task.reset(4, seeded(1))
    lengths = model(states, normal(2, 4, 8))[:, 3:7].norm(dim=-1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths))
