"""Planners on fitted models, against what is optimal for the systems that they were fitted to."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mbrl.nn import DynamicsModel, EnsembleDynamics, MLPDynamics, fit
from mbrl.planning import ILQR, Problem, Scene, TorchModel
from mbrl.types import Transitions
from tests.planning.lq import Weights, problem_of, random_weights, riccati

HORIZON = 12
SYSTEM: Weights = random_weights(4, 4, 2)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def fitted(model: DynamicsModel, epochs: int) -> DynamicsModel:
    """Fit to transitions of x' = A x + B u."""
    states, actions = normal(0, 400, 4), normal(1, 400, 2)
    following = states @ SYSTEM.a.T + actions @ SYSTEM.b.T
    inputs, changes = torch.cat([states, actions], dim=1), following - states
    model.set_statistics(
        inputs=(inputs.mean(0), inputs.std(0)), differences=(changes.mean(0), changes.std(0))
    )
    fit(
        model,
        Transitions(states, actions, following),
        epochs=epochs,
        batch_size=50,
        optimizer=torch.optim.Adam(model.parameters(), lr=0.01),
        generator=torch.Generator().manual_seed(2),
    )
    return model


def learned_problem(model: DynamicsModel) -> Problem:
    return replace(problem_of(SYSTEM, HORIZON), model=TorchModel(model, 4))


def regret(actions: Tensor, x0: Tensor) -> float:
    """What a plan costs in the true system: 0 is Riccati's cost, 1 that of doing nothing."""
    problem = problem_of(SYSTEM, HORIZON)
    _, value = riccati(SYSTEM, HORIZON)
    best = (0.5 * (x0 @ value) * x0).sum(-1)
    cost, still = (
        problem.rollout(x0, plan[:, None])[1][0] for plan in (actions, problem.still(len(x0)))
    )
    return float(((cost - best) / (still - best)).max())


def test_ilqr_on_a_fitted_linear_model_is_riccatis_regulator():
    model = MLPDynamics(4, 2, torch.Generator().manual_seed(0), hidden=(), dtype="float64")
    problem, x0 = learned_problem(fitted(model, 200)), normal(3, 3, 4)
    plan = ILQR(iterations=3).plan(problem, x0)
    gains, _ = riccati(SYSTEM, HORIZON)
    torch.testing.assert_close(plan.gains, gains[:, None].expand_as(plan.gains), rtol=0, atol=1e-4)
    assert regret(plan.actions, x0) < 1e-6


def test_ilqr_on_a_fitted_ensemble_is_near_it():
    generator = torch.Generator().manual_seed(0)
    model = EnsembleDynamics(4, 2, generator, hidden=(), members=2)
    problem, x0 = learned_problem(fitted(model, 100)), normal(3, 3, 4)
    plan = ILQR(iterations=5).plan(problem, x0)
    assert regret(plan.actions, x0) < 1e-2


@pytest.mark.parametrize("kind", [MLPDynamics, EnsembleDynamics])
def test_jacobians_of_models_are_those_of_differences(kind):
    network = kind(
        4, 2, torch.Generator().manual_seed(0), hidden=(8,), activation="tanh", dtype="float64"
    )
    model, x, u = TorchModel(network, 4), normal(0, 1, 3, 4), normal(1, 1, 3, 2)
    a, b = model.linearize(x, u, Scene())
    eps = 1e-6
    for found, point, other in ((a, 0, x), (b, 1, u)):
        for j in range(other.shape[-1]):
            pairs = []
            for sign in (1, -1):
                moved = [x[0].clone(), u[0].clone()]
                moved[point][:, j] += sign * eps
                pairs.append(network(*moved).detach())
            slope = (pairs[0] - pairs[1]) / (2 * eps)
            torch.testing.assert_close(found[0, :, :, j], slope, rtol=0, atol=1e-8)
