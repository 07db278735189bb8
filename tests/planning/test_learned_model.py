"""Rollouts of learned models as planners see them."""

import pytest
import torch

import mbrl
from mbrl.nn import MLPDynamics
from mbrl.planning import LearnedMLP, Scene, TorchModel, model_of


def model(dtype="float64", **options):
    """A random network with statistics that normalise."""
    generator = torch.Generator().manual_seed(0)
    made = MLPDynamics(3, 2, generator, hidden=(16, 16), dtype=dtype, **options)
    draw = torch.rand(16, generator=generator, dtype=torch.float64)
    made.set_statistics(
        inputs=(draw[:5] - 0.5, draw[5:10] + 0.5), differences=(draw[10:13] - 0.5, draw[13:])
    )
    return made


def rolled(kind, dynamics, state, actions):
    made = LearnedMLP(dynamics) if kind is LearnedMLP else TorchModel(dynamics, 3)
    return made.rollout(state, actions, Scene()), made


def inputs(rows=700, steps=6):
    generator = torch.Generator().manual_seed(1)
    state = torch.randn(rows, 3, generator=generator, dtype=torch.float64)
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


def test_it_follows_what_is_fitted_meanwhile():
    dynamics, (state, actions) = model(), inputs(5)
    made = LearnedMLP(dynamics)
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
    made = MLPDynamics(4, 1, torch.Generator().manual_seed(0), hidden=(8,))
    assert type(model_of(task, made)) is LearnedMLP
