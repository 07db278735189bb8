"""Fitting: known systems are found, bits repeat, fits resume and stop when they should."""

import io

import pytest
import torch
from torch import nn

from mbrl.errors import ArgumentError, DivergenceError
from mbrl.nn import DynamicsModel, EnsembleDynamics, Fitting, MLPDynamics, fit
from tests.nn.systems import DRIFT, A, B, affine, normal, seeded, standardize


def adam(model, lr=1e-3):
    return torch.optim.Adam(model.parameters(), lr=lr)


def mlp(seed=0, **options):
    model = MLPDynamics(3, 2, seeded(seed), **{"hidden": (8,), **options})
    standardize(model, affine(300))
    return model


def ensemble(seed=0, **options):
    options = {"hidden": (8,), "members": 3, **options}
    model = EnsembleDynamics(3, 2, seeded(seed), **options)
    standardize(model, affine(300))
    return model


def jacobians(model):
    state, action = torch.zeros(3).double(), torch.zeros(2).double()
    return torch.func.jacrev(lambda x, u: model(x[None], u[None])[0], argnums=(0, 1))(state, action)


@pytest.mark.parametrize("reward", [False, True])
def test_a_linear_system_is_found(reward):
    model = mlp(hidden=(), dtype="float64", reward=reward)
    data = affine(300)
    report = fit(
        model, data, epochs=300, batch_size=50, optimizer=adam(model, 0.01), generator=seeded()
    )
    a, b = jacobians(model)
    torch.testing.assert_close(a, A, rtol=0, atol=1e-6)
    torch.testing.assert_close(b, B, rtol=0, atol=1e-6)
    zero = torch.zeros(1, 3).double(), torch.zeros(1, 2).double()
    torch.testing.assert_close(model(*zero)[0], DRIFT, rtol=0, atol=1e-6)
    assert report.losses.shape == (300, 1)
    if not reward:
        assert report.losses[-1] < 1e-12


def test_a_reward_is_learned():
    model = mlp(hidden=(32,), activation="tanh", reward=True)
    data, fresh = affine(1000), affine(500, seed=9)
    fit(model, data, epochs=100, batch_size=50, optimizer=adam(model, 0.01), generator=seeded())
    with torch.no_grad():
        error = model.predict(fresh.states, fresh.actions).reward - fresh.rewards
    assert error.square().mean().sqrt() < 0.1 * fresh.rewards.std()


def test_an_ensemble_finds_the_system_and_its_noise():
    noise = 0.1
    model = EnsembleDynamics(3, 2, seeded(), hidden=(), members=2, dtype="float64")
    data = affine(4000, noise=noise)
    standardize(model, data)
    fit(model, data, epochs=60, batch_size=200, optimizer=adam(model, 0.01), generator=seeded())
    # Deviation of least squares: noise / (deviation of the input sqrt(rows)), and of a bootstrap as
    # much again.
    error = 4 * noise * 2**0.5 / 4000**0.5
    a, b = jacobians(model)
    sizes = torch.tensor([1.0, 10.0, 0.1])
    assert (((a - A) * sizes).abs() < error).all()
    assert ((b - B).abs() < error).all()
    inputs = model.normalized(data.states, data.actions)
    _, log_variance = model.moments(inputs.expand(2, -1, -1))
    sd = (0.5 * log_variance).exp().mean((0, 1)) * model.target_deviation
    torch.testing.assert_close(sd, torch.full((3,), noise).double(), rtol=0.05, atol=0)


@pytest.mark.parametrize("make", [mlp, ensemble])
def test_same_seed_same_bits_and_another_seed_others(make):
    found = []
    for seed in (5, 5, 6):
        model = make()
        fit(
            model,
            affine(100),
            epochs=3,
            batch_size=32,
            optimizer=adam(model),
            generator=seeded(seed),
        )
        found.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_every_epoch_visits_every_row_once_in_a_new_order():
    seen = []

    class Watched(MLPDynamics):
        def losses(self, inputs, targets):
            seen.append(inputs[0].detach())
            return super().losses(inputs, targets)

    model = Watched(3, 2, seeded(), hidden=(4,))
    data = affine(10)
    fit(model, data, epochs=2, batch_size=4, optimizer=adam(model), generator=seeded())
    assert [len(batch) for batch in seen] == [4, 4, 2] * 2
    first, second = torch.cat(seen[:3]), torch.cat(seen[3:])
    assert not torch.equal(first, second)
    everything = model.normalized(data.states, data.actions)
    for epoch in (first, second):
        assert torch.equal(epoch[epoch[:, 0].argsort()], everything[everything[:, 0].argsort()])


def test_members_take_bootstraps_of_their_own_and_keep_them():
    seen = []

    class Watched(EnsembleDynamics):
        def losses(self, inputs, targets):
            seen.append(inputs.detach())
            return super().losses(inputs, targets)

    model, data = Watched(3, 2, seeded(), hidden=(4,), members=2), affine(2000)
    fit(model, data, epochs=2, batch_size=2000, optimizer=adam(model), generator=seeded())
    first, second = ([set(m[:, 0].tolist()) for m in epoch] for epoch in seen)
    assert first == second
    assert first[0] != first[1]
    for chosen in first:  # a bootstrap leaves out 1 / e of the rows
        assert len(chosen) / 2000 == pytest.approx(1 - torch.e**-1, abs=0.04)


@pytest.mark.parametrize("make", [mlp, ensemble])
def test_steps_are_those_of_adam_on_the_mean_of_the_batch(make):
    """One epoch of one batch by hand, with the bootstrap found from the same generator."""
    data, model, by_hand = affine(20), make(dtype="float64"), make(dtype="float64")
    optimizer = adam(model)
    for _ in range(2):
        fit(model, data, epochs=1, optimizer=optimizer, generator=seeded(3))
    rows = torch.arange(20).expand(model.members, 20)
    if model.bootstraps:
        rows = torch.randint(20, (model.members, 20), generator=seeded(3))
    inputs, targets = by_hand.normalized(data.states, data.actions), by_hand.targets(data)
    first, second = (
        {name: torch.zeros_like(p) for name, p in by_hand.named_parameters()} for _ in range(2)
    )
    for step in (1, 2):  # Adam's moments go on from one fit to the next
        loss = by_hand.losses(inputs[rows], targets[rows]).sum()
        names, parameters = zip(*by_hand.named_parameters(), strict=True)
        for name, p, g in zip(
            names, parameters, torch.autograd.grad(loss, parameters), strict=True
        ):
            first[name] = 0.9 * first[name] + 0.1 * g
            second[name] = 0.999 * second[name] + 0.001 * g**2
            mean, square = first[name] / (1 - 0.9**step), second[name] / (1 - 0.999**step)
            with torch.no_grad():
                p -= 1e-3 * mean / (square.sqrt() + 1e-8)
    for ours, theirs in zip(model.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


@pytest.mark.parametrize("make", [mlp, ensemble])
@pytest.mark.parametrize("patience", [None, 1])
def test_a_fit_resumes_bit_for_bit(make, patience):
    data, held_out = affine(100), affine(40, seed=7)

    def begin(seed):
        model, generator = make(), seeded(seed)
        optimizer = adam(model, 0.05)
        fitting = Fitting(
            model,
            data,
            optimizer=optimizer,
            generator=generator,
            batch_size=32,
            held_out=held_out,
            patience=patience,
        )
        return model, optimizer, generator, fitting

    model, _, _, fitting = begin(1)
    for _ in range(6):
        fitting.epoch()
    whole = fitting.finish()

    first, optimizer, generator, half = begin(1)
    for _ in range(2):
        half.epoch()
    stored = io.BytesIO()
    parts = (first, optimizer, half)
    torch.save([*(part.state_dict() for part in parts), generator.get_state()], stored)
    half.epoch()  # what was saved does not change
    stored.seek(0)
    state = torch.load(stored, weights_only=True)

    again, optimizer, generator, rest = begin(2)
    for part, saved in zip((again, optimizer, rest), state, strict=False):
        part.load_state_dict(saved)
    generator.set_state(state[-1])
    for _ in range(4):
        rest.epoch()
    report = rest.finish()
    assert rest.epochs == 6
    assert torch.equal(report.losses, whole.losses)
    assert torch.equal(report.held_out, whole.held_out)
    for ours, theirs in zip(again.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


class Scripted(DynamicsModel):
    """Two members whose held-out losses are given in advance, and whose parameter is the epoch."""

    members = 2

    def __init__(self, script):
        super().__init__(3, 2, reward=False, dtype="float64")
        self.script, self.index, self.chosen_by = script, 0, None
        self.epochs = nn.Parameter(torch.zeros(2).double())

    def losses(self, inputs, targets):
        return self.epochs

    def squared_errors(self, inputs, targets):
        loss = torch.tensor(self.script[self.index], dtype=torch.float64)
        self.index += 1
        # The mean over rows and 3 entries is the script's loss.
        return 3 * loss[:, None].expand(2, len(inputs))

    def by_member(self):
        return {"epochs": self.epochs.detach()}

    def choose(self, held_out):
        self.chosen_by = held_out


class Counting(torch.optim.SGD):
    """Adds one to every parameter at every step."""

    def step(self, closure=None):
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    p += 1


def scripted(script, patience, epochs=10):
    model, seen = Scripted(script), []
    report = fit(
        model,
        affine(5),
        epochs=epochs,
        optimizer=Counting(model.parameters(), lr=1.0),
        generator=seeded(),
        held_out=affine(4, seed=1),
        patience=patience,
        progress=lambda epoch, losses, held_out: seen.append((epoch, losses, held_out)),
    )
    return model, report, seen


def test_patience_ends_fits_and_each_member_gets_its_best_epoch_back():
    script = [[4.0, 2.0], [1.0, 3.0], [0.995, 1.99], [0.993, 2.5], [0.5, 0.5]]
    model, report, seen = scripted(script, patience=1)
    # Epochs 3 and 4 improve by less than 1 %: two without progress are more than one.
    assert report.stopped_early
    assert report.held_out.tolist() == script[:4]
    assert model.epochs.tolist() == [2.0, 1.0]
    assert model.chosen_by.tolist() == [1.0, 2.0]
    assert [epoch for epoch, *_ in seen] == [0, 1, 2, 3]
    assert torch.equal(torch.stack([losses for _, losses, _ in seen]), report.losses)
    assert torch.equal(torch.stack([held_out for *_, held_out in seen]), report.held_out)


def test_patience_resumes():
    script = [[4.0, 2.0], [1.0, 3.0], [0.995, 1.99], [0.993, 2.5]]

    def begin(script):
        model = Scripted(script)
        return model, Fitting(
            model,
            affine(5),
            optimizer=Counting(model.parameters(), lr=1.0),
            generator=seeded(),
            held_out=affine(4, seed=1),
            patience=1,
        )

    first, half = begin([*script[:3], [0.1, 0.1]])
    for _ in range(3):
        half.epoch()
    epochs, state = first.epochs.detach().clone(), half.state_dict()
    half.epoch()  # the best so far, which the state does not know
    again, rest = begin(script[3:])
    with torch.no_grad():
        again.epochs.copy_(epochs)
    rest.load_state_dict(state)
    assert not rest.is_over
    rest.epoch()
    assert rest.is_over
    assert rest.finish().held_out.tolist() == script
    assert again.epochs.tolist() == [2.0, 1.0]


@pytest.mark.parametrize("make", [mlp, ensemble])
def test_patience_leaves_models_as_good_as_they_ever_were(make):
    model, held_out = make(dtype="float64"), affine(50, seed=3)
    report = fit(
        model,
        affine(60, noise=1.0),
        epochs=100,
        batch_size=20,
        optimizer=adam(model, 0.1),  # too fast: epochs differ in how good they are
        generator=seeded(),
        held_out=held_out,
        patience=2,
    )
    inputs = model.normalized(held_out.states, held_out.actions)
    errors = model.squared_errors(inputs, model.targets(held_out)).mean(1) / 3
    best, last = report.held_out.min(0).values, report.held_out[-1]
    assert report.stopped_early
    assert (last > best).any()
    assert (errors <= best / 0.99).all(), "what improves by less than 1 % is not kept"
    for e in range(model.members):
        assert (report.held_out[:, e] - errors[e]).abs().min() < 1e-12


def test_without_patience_the_last_epoch_stays():
    script = [[4.0, 2.0], [5.0, 3.0], [6.0, 2.0]]
    model, report, _ = scripted(script, patience=None, epochs=3)
    assert not report.stopped_early
    assert model.epochs.tolist() == [3.0, 3.0]
    assert model.chosen_by.tolist() == [6.0, 2.0]


@pytest.mark.parametrize("make", [mlp, ensemble])
def test_held_out_losses_are_squared_errors_in_deviations_of_the_change(make):
    model, held_out = make(dtype="float64"), affine(5000, seed=3)
    report = fit(
        model,
        affine(100),
        epochs=1,
        optimizer=adam(model),
        generator=seeded(),
        held_out=held_out,
    )
    for e in range(model.members):
        model.elites = torch.tensor([e])  # which an ensemble predicts by
        error = model(held_out.states, held_out.actions) - held_out.next_states
        expected = (error / model.target_deviation).square().mean().detach()
        torch.testing.assert_close(report.held_out[-1, e], expected, rtol=1e-5, atol=0)


def test_the_loss_of_an_epoch_is_the_mean_over_all_rows():
    model, data = mlp(dtype="float64"), affine(10)
    still = torch.optim.SGD(model.parameters(), lr=0.0)
    report = fit(model, data, epochs=1, batch_size=7, optimizer=still, generator=seeded())
    inputs, targets = model.normalized(data.states, data.actions), model.targets(data)
    whole = model.losses(inputs[None], targets[None]).detach()
    torch.testing.assert_close(report.losses[0], whole, rtol=1e-12, atol=0)


def test_held_out_errors_choose_the_elites():
    model = ensemble(members=3, elites=1)
    with torch.no_grad():
        for member in (0, 2):
            model.network.layers[-1].bias[member] += 50.0
    held_out = affine(50, seed=3)
    fit(model, affine(100), epochs=1, optimizer=adam(model), generator=seeded(), held_out=held_out)
    assert model.elites.tolist() == [1]
    with pytest.raises(ArgumentError, match="choosing 1 of 3 members takes held-out data"):
        fit(model, affine(100), epochs=1, optimizer=adam(model), generator=seeded())


def test_a_loss_that_is_not_finite_names_its_members():
    model = ensemble(members=3)
    with torch.no_grad():
        model.network.layers[0].weight[1] = torch.nan
    with pytest.raises(DivergenceError, match=r"members \[1\] is not finite in epoch 0") as caught:
        fit(model, affine(10), epochs=1, optimizer=adam(model), generator=seeded())
    assert caught.value.rows == (1,)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({}, {"patience": 3}, "patience must not be negative and takes held-out data, got 3"),
        (
            {"actions": normal(0, 9, 2)},
            {},
            r"data: actions must be \[N, 2\] with N = 10, got \[9, 2\]",
        ),
        ({"rewards": normal(0, 9)}, {}, r"data: rewards must be \[10\], got \[9\]"),
        (
            {"states": torch.zeros(0, 3).double()},
            {},
            r"data: states must be \[N, 3\] with N = at least 1, got \[0, 3\]",
        ),
    ],
)
def test_what_does_not_fit_is_named(change, options, message):
    model = mlp()
    with pytest.raises(ArgumentError, match=message):
        fit(
            model,
            affine(10)._replace(**change),
            optimizer=adam(model),
            generator=seeded(),
            **options,
        )


def test_a_state_of_other_data_is_refused():
    model = mlp()
    fittings = [
        Fitting(model, affine(n), optimizer=adam(model), generator=seeded()) for n in (10, 11)
    ]
    with pytest.raises(ArgumentError, match=r"\[1, 10\], this one is of \[1, 11\]"):
        fittings[1].load_state_dict(fittings[0].state_dict())


def test_a_last_step_beyond_all_numbers_names_its_members():
    model = ensemble(members=3)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    data = affine(100)
    original = optimizer.step

    def step():
        original()
        with torch.no_grad():
            model.network.layers[0].weight[2, 0, 0] = torch.inf

    optimizer.step = step
    with pytest.raises(
        DivergenceError, match=r"a parameter of members \[2\] is not finite in epoch"
    ):
        fit(model, data, epochs=1, optimizer=optimizer, generator=seeded(), batch_size=200)
