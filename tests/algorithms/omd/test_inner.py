"""The inner problem's adjoint, and its closed forms against automatic differentiation."""

import numpy as np
import pytest
import torch

from mbrl.algorithms.omd.inner import SoftQProblem
from mbrl.algorithms.omd.soft_q import SoftQ
from mbrl.algorithms.omd.twin_critic import CriticProblem, TwinCritic
from mbrl.ops import Identity, implicit_gradient

SEEDS, BATCH, N, A = 2, 4, 3, 2
MASK = torch.tensor([[1.0, 1, 0, 1], [1, 0, 1, 1]], dtype=torch.float64)


def normal(*size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, generator=generator, dtype=torch.float64)


def soft_q_problem(*, double, hard):
    q = SoftQ(N, A, hidden=(6, 5), discount=0.9, alpha=0.4, double=double, hard=hard)
    w, w_ = parameters(q.network)
    observation = normal(SEEDS, BATCH, N, seed=3)
    taken = torch.eye(A, dtype=torch.float64)[torch.tensor([[0, 1, 1, 0], [1, 1, 0, 1]])]
    tape = q.network.forward(w, observation)
    return SoftQProblem(q, w, w_, observation, taken, MASK, tape)


def critic_problem():
    critic = TwinCritic(N, A, hidden=(6, 5), discount=0.9)
    w, w_ = parameters(critic.network)
    inputs = normal(SEEDS, BATCH, N + A, seed=3)
    tape = critic.network.forward(w, inputs)
    action, entropy = normal(SEEDS, BATCH, A, seed=10), normal(SEEDS, BATCH, seed=11)
    return CriticProblem(critic, w, w_, inputs, tape, action, entropy, MASK)


def parameters(network):
    return [network.parameters(0.6 * normal(SEEDS, network.size, seed=s)) for s in (1, 2)]


PROBLEMS = {
    "double": lambda: soft_q_problem(double=True, hard=False),
    "hard": lambda: soft_q_problem(double=True, hard=True),
    "single": lambda: soft_q_problem(double=False, hard=False),
    "critic": critic_problem,
}


@pytest.fixture(params=PROBLEMS)
def problem(request):
    return PROBLEMS[request.param]()


def descended(problem, found):
    """The gradient by which the networks learn from a prediction."""
    if isinstance(problem, SoftQProblem):
        q, taken = problem.q, problem.taken
        y = q.target(problem.w_, found["following"], found["reward"], MASK)
    else:
        q, taken = problem.critic, None
        least = q.least(problem.w_, found["following"], problem.action)
        y = q.target(found["reward"], MASK, least.value + problem.entropy)
    written = q.network.zeros(SEEDS, torch.float64)
    q.loss_gradient(problem.w, problem.tape, q.errors(problem.tape, taken, y), written)
    return written.flat


def predicted():
    return {"following": normal(SEEDS, BATCH, N, seed=4), "reward": normal(SEEDS, BATCH, seed=5)}


def test_the_condition_is_the_gradient_that_networks_descend(problem):
    found = predicted()
    condition = problem.condition(problem.w.flat, found)
    torch.testing.assert_close(condition, descended(problem, found))


def test_the_pull_in_closed_form_is_that_of_automatic_differentiation(problem):
    z, found = normal(*problem.w.flat.shape, seed=6), predicted()
    _, pull = torch.func.vjp(lambda p: problem.condition(problem.w.flat, p), found)
    closed = problem.pull(z.flatten(), problem.w.flat, found)
    for name, wanted in pull(z)[0].items():
        assert float(wanted.abs().max()) > 1e-3
        torch.testing.assert_close(closed[name], wanted)


def test_the_pull_in_closed_form_is_that_of_differences(problem):
    z, found, eps = normal(*problem.w.flat.shape, seed=6), predicted(), 1e-5
    closed = problem.pull(z.flatten(), problem.w.flat, found)
    for name, values in found.items():
        wanted = np.zeros(values.shape)
        for index in np.ndindex(*values.shape):
            sides = []
            for sign in (1, -1):
                moved = {key: value.clone() for key, value in found.items()}
                moved[name][index] += sign * eps
                sides.append(float((z * problem.condition(problem.w.flat, moved)).sum()))
            wanted[index] = (sides[0] - sides[1]) / (2 * eps)
        np.testing.assert_allclose(closed[name], wanted, rtol=1e-6, atol=1e-8)


def test_the_implicit_gradient_takes_both(problem):
    g, found = normal(*problem.w.flat.shape, seed=7), predicted()
    plain, closed = (
        implicit_gradient(
            problem.condition, problem.w.flat, found, g, adjoint=Identity(), pull=pull
        )
        for pull in (None, problem.pull)
    )
    for name in found:
        torch.testing.assert_close(plain[name], closed[name])
