"""Rollouts of learned models as planners see them."""

import pytest
import torch

import mbrl
from mbrl.errors import ArgumentError
from mbrl.nn import EnsembleDynamics, MLPDynamics
from mbrl.planning import (
    LearnedEnsemble,
    LearnedMLP,
    LearnedModel,
    PropagationOptions,
    Scene,
    TorchModel,
    learned_model,
    model_of,
)


def normalizing(made):
    """Random statistics."""
    generator = torch.Generator().manual_seed(0)
    inputs, outputs = made.input_size, made.output_size
    draw = torch.rand(2 * (inputs + outputs), generator=generator, dtype=torch.float64)
    mean, deviation, shift, scale = draw.split([inputs, inputs, outputs, outputs])
    made.set_statistics(
        inputs=(mean - 0.5, deviation + 0.5),
        differences=(shift[:3] - 0.5, scale[:3]),
        rewards=(shift[3], scale[3]) if made.predicts_reward else None,
    )
    return made


def model(dtype="float64", **options):
    """A random network with statistics that normalise."""
    generator = torch.Generator().manual_seed(0)
    return normalizing(MLPDynamics(3, 2, generator, hidden=(16, 16), dtype=dtype, **options))


def ensemble(noise=True, dtype="float64", **options):
    """A random ensemble; without noise its particles move by exp(-30) of a change besides."""
    generator = torch.Generator().manual_seed(0)
    options = {"members": 3, "hidden": (16,), **options}
    made = normalizing(EnsembleDynamics(3, 2, generator, dtype=dtype, **options))
    if not noise:
        with torch.no_grad():
            made.highest_log_variance.fill_(-60.0)
            made.lowest_log_variance.fill_(-61.0)
    return made


def alone(made, member):
    """The ensemble of one member."""
    single = ensemble(members=1, reward=made.predicts_reward)
    state = made.state_dict()
    own = {name: state[name][member : member + 1] for name in made.by_member()}
    single.load_state_dict({**state, **own, "elites": torch.tensor([0])})
    return single


def rolled(kind, dynamics, state, actions):
    made = LearnedMLP(dynamics) if kind is LearnedMLP else TorchModel(dynamics, 3)
    return made.rollout(state, actions, Scene()), made


def inputs(rows=700, steps=6, width=3):
    generator = torch.Generator().manual_seed(1)
    state = torch.randn(rows, width, generator=generator, dtype=torch.float64)
    return state, torch.randn(steps, rows, 2, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-4)])
def test_a_rollout_applies_the_model_step_by_step(dtype, tolerance):
    dynamics, (state, actions) = model(dtype), inputs()
    found, made = rolled(LearnedMLP, dynamics, state, actions)
    assert found.dtype == torch.float64
    assert torch.equal(found[0], state)
    expected, _ = rolled(TorchModel, dynamics, state, actions)
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    assert made.control_steps == 6 * 700


@pytest.mark.parametrize("make", [model, ensemble])
def test_it_follows_what_is_fitted_meanwhile(make):
    dynamics, (state, actions) = make(), inputs(5)
    made = learned_model(dynamics)
    before = made.rollout(state, actions, Scene())
    with torch.no_grad():
        for parameter in dynamics.parameters():
            parameter.mul_(0.5)
    after = made.rollout(state, actions, Scene())
    assert not torch.allclose(before[1:], after[1:])
    torch.testing.assert_close(after, rolled(TorchModel, dynamics, state, actions)[0])


def test_a_row_that_diverges_is_nan_from_there_on():
    dynamics, (state, actions) = model("float32"), inputs(4)
    actions[2, 1] = 1e39  # infinite in float32
    found, _ = rolled(LearnedMLP, dynamics, state, actions)
    assert found[:3].isfinite().all()
    assert found[3:, 1].isnan().all()
    assert found[:, [0, 2, 3]].isfinite().all()


def test_a_problem_with_a_learned_model_uses_it():
    task = mbrl.make_task("InvertedPendulum-v5", threads=1)
    generator = torch.Generator().manual_seed(0)
    made = MLPDynamics(4, 1, generator, hidden=(8,))
    assert type(model_of(task, made)) is LearnedMLP
    assert type(model_of(task, EnsembleDynamics(4, 1, generator, hidden=(8,)))) is LearnedEnsemble


# What an ensemble is uncertain of


def test_a_rollout_of_an_ensemble_is_that_of_its_average():
    dynamics, (state, actions) = ensemble(elites=2), inputs(50)
    dynamics.choose(torch.tensor([0.3, 0.9, 0.2]))
    for how in (PropagationOptions(), PropagationOptions("ts1", particles=4)):
        made = LearnedEnsemble(dynamics, propagation=how)
        found = made.rollout(state, actions, Scene())
        expected, _ = rolled(TorchModel, dynamics, state, actions)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        assert torch.equal(found[0], state)
        assert made.control_steps == 6 * 50
    plain = LearnedEnsemble(dynamics)
    assert plain.particles == 1
    assert torch.equal(plain.futures(state, actions, Scene()), found[None])


def test_without_noise_the_futures_are_those_of_the_members():
    dynamics, (state, actions) = ensemble(noise=False), inputs(20)
    how = PropagationOptions("tsinf", particles=6)
    made = LearnedEnsemble(dynamics, propagation=how)
    found = made.futures(state, actions, Scene())
    assert found.shape == (6, 7, 20, 3)
    assert found.dtype == torch.float64
    for p in range(6):
        expected, _ = rolled(TorchModel, alone(dynamics, p // 2), state, actions)
        torch.testing.assert_close(found[p], expected, rtol=1e-9, atol=1e-9)
    assert made.particles == 6
    assert made.control_steps == 6 * 6 * 20


def test_noise_is_a_function_of_the_seed_and_the_step():
    dynamics, (state, actions) = ensemble(), inputs(5)

    def futures(seed, start, rows=5):
        how = PropagationOptions("ts1", particles=6)
        made = LearnedEnsemble(dynamics, propagation=how, seed=seed)
        made.futures(state, actions, Scene(3))  # what was planned before does not matter
        return made.futures(state[:rows], actions[:, :rows], Scene(start))

    first = futures(0, 0)
    assert torch.equal(futures(0, 0), first)
    torch.testing.assert_close(futures(0, 0, rows=2), first[:, :, :2], rtol=1e-12, atol=1e-12)
    others = [futures(0, 1), futures(1, 0), futures(1, 1), futures(0, 2)]
    for i, one in enumerate([first, *others]):
        assert all(not torch.equal(one[:, 1], other[:, 1]) for other in others[i:])


def test_a_particle_that_diverges_is_nan_and_the_others_are_not():
    dynamics, (state, actions) = ensemble(noise=False, dtype="float32"), inputs(4)
    with torch.no_grad():  # where u_0 is large the second member leaves single precision
        dynamics.network.layers[0].weight[1] = 0.0
        dynamics.network.layers[0].weight[1, 3] = 1e30
        dynamics.network.layers[0].bias[1] = -1e30
        dynamics.network.layers[1].weight[1] = 1e20
    actions[..., 0] = -1.0
    actions[2, 1, 0] = 100.0
    made = LearnedEnsemble(dynamics, propagation=PropagationOptions("tsinf", particles=6))
    found = made.futures(state, actions, Scene())
    lost = torch.zeros(6, 7, 4, dtype=torch.bool)
    lost[2:4, 3:, 1] = True
    assert torch.equal(found.isnan().all(-1), lost)
    assert torch.equal(found.isfinite().all(-1), ~lost)


def test_wrong_propagation_is_named():
    with pytest.raises(
        ArgumentError, match=r"^particles must be a multiple of the 3 elites, got 4"
    ):
        learned_model(ensemble(), propagation=PropagationOptions("ts1", particles=4))
    with pytest.raises(ArgumentError, match=r"'tsinf' takes an ensemble, got a MLPDynamics; legal"):
        learned_model(model(), propagation=PropagationOptions("tsinf"))
    with pytest.raises(ArgumentError, match=r"^particles must be at least 1, got 0"):
        PropagationOptions("ts1", particles=0)
    assert learned_model(ensemble(), propagation=PropagationOptions(particles=4)).particles == 1


# Rewards that are learned


@pytest.mark.parametrize("make", [model, ensemble])
def test_the_last_coordinate_is_the_reward_that_the_model_predicts(make):
    dynamics, (state, actions) = make(reward=True), inputs(30, width=4)
    made = learned_model(dynamics)
    assert made.predicts_reward
    assert made.state_size == made.tangent_size == 4
    found = made.rollout(state, actions, Scene())
    assert torch.equal(found[0], state)
    here = state[:, :3]
    with torch.no_grad():
        for t, action in enumerate(actions):
            here, reward = dynamics.predict(here, action)
            torch.testing.assert_close(found[t + 1, :, :3], here, rtol=1e-11, atol=1e-11)
            torch.testing.assert_close(found[t + 1, :, 3], reward, rtol=1e-11, atol=1e-11)
    states, applied = made.closed_loop(state, lambda t, x: actions[t], 6, Scene())
    assert torch.equal(applied, actions)
    torch.testing.assert_close(states, found, rtol=1e-11, atol=1e-11)


def test_a_reward_that_overflows_once_ends_the_row():
    generator, (state, actions) = torch.Generator(), inputs(4, width=4)
    dynamics = MLPDynamics(3, 2, generator, hidden=(), reward=True)
    with torch.no_grad():
        dynamics.network[0].weight.zero_()
        dynamics.network[0].weight[3, 4] = 1e38  # of the second action
    actions = actions.clamp(-1, 1)
    actions[2, 1, 1] = 1e3
    found = learned_model(dynamics).rollout(state, actions, Scene())
    assert found[3:, 1].isnan().all(), "its states, too, though they were finite"
    assert found[:3].isfinite().all()
    assert found[:, [0, 2, 3]].isfinite().all()


def test_feedback_may_use_what_is_predicted():
    dynamics, (state, _) = model(reward=True), inputs(5, width=4)
    made = LearnedModel(dynamics)
    states, applied = made.closed_loop(state, lambda t, x: 0.1 * x[:, 2:] + t, 3, Scene())
    for t in range(3):
        assert torch.equal(applied[t], 0.1 * states[t][:, 2:] + t)
        with torch.no_grad():
            following, reward = dynamics.predict(states[t][:, :3], applied[t])
        torch.testing.assert_close(states[t + 1][:, :3], following)
        torch.testing.assert_close(states[t + 1][:, 3], reward)


@pytest.mark.parametrize("make", [model, ensemble])
def test_jacobians_with_a_reward_are_those_of_differences(make):
    smooth = {"activation": "tanh", "reward": True}
    made = learned_model(make(**smooth))
    (state, actions), eps = inputs(4, steps=2, width=4), 1e-6
    along = made.rollout(state, actions, Scene())
    a, b = made.linearize(along[:-1], actions, Scene())
    assert not a[..., 3].any(), "nothing depends on the last reward"
    for t in range(2):
        for found, point, width in ((a, 0, 4), (b, 1, 2)):
            for j in range(width):
                ends = []
                for sign in (1, -1):
                    moved = [along[t].clone(), actions[t].clone()]
                    moved[point][:, j] += sign * eps
                    ends.append(made.rollout(moved[0], moved[1][None], Scene())[1])
                slope = (ends[0] - ends[1]) / (2 * eps)
                torch.testing.assert_close(found[t, :, :, j], slope, rtol=0, atol=1e-7)


def test_particles_have_rewards_of_their_own():
    dynamics, (state, actions) = ensemble(noise=False, reward=True), inputs(7, width=4)
    how = PropagationOptions("tsinf", particles=3)
    found = LearnedEnsemble(dynamics, propagation=how).futures(state, actions, Scene())
    assert found.shape == (3, 7, 7, 4)
    for e in range(3):
        expected = learned_model(alone(dynamics, e)).rollout(state, actions, Scene())
        torch.testing.assert_close(found[e], expected, rtol=1e-9, atol=1e-9)
