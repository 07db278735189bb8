"""A linear-quadratic problem, whose expected return has a closed form."""

import math
from typing import NamedTuple

import torch
from torch import nn

from mbrl.algorithms.estimators import ESTIMATORS, Problem, Subject
from mbrl.algorithms.weighting import Objective
from mbrl.graph import build_graph
from mbrl.tasks import Task
from mbrl.types import Start, Transition

H = 4  # steps of a rollout
SAMPLES, BATCH = 10_000, 100


def matrix(rows):
    return torch.tensor(rows, dtype=torch.float64)


A = matrix([[1.0, 0.3], [-0.2, 0.9]])
B = matrix([[0.1, 0.0], [0.5, -0.8]])
Q = matrix([[1.0, 0.2], [0.2, 0.5]])
R = matrix([[0.3, 0.0], [0.0, 0.1]])
START_MEAN, START_SD = matrix([1.0, -0.5]), 0.3


class Linear(nn.Module):
    def forward(self, state, action):
        return state @ A.T + action @ B.T


class LinearQuadratic(Task):
    r"""x' = A x + B u, r = -(x' Q x' + u R u).

    Args:
        spread: deviation of start states about their mean.
        limit: an episode ends when the first coordinate of x' exceeds it.
        bound: of the actions' magnitude.
    """

    name, simulator, max_episode_steps = "linear", None, 100
    state_size = observation_size = 2

    def __init__(self, spread=START_SD, limit=math.inf, bound=math.inf):
        self.action_low = matrix([-bound] * 2)
        self.action_high = -self.action_low
        self.spread, self.limit = spread, limit

    def start(self, batch, generator):
        noise = torch.randn(batch, 2, generator=generator, dtype=torch.float64)
        return Start(START_MEAN + self.spread * noise, torch.zeros(batch, 0, dtype=torch.float64))

    def dynamics(self, **options):
        return Linear()

    def observe(self, state, *, t=0, context=None):
        return state

    def reward(self, state, action, next_state, *, t=0, context=None):
        return -quadratic(next_state, Q) - quadratic(action, R)

    def terminated(self, next_state, *, t=0, context=None):
        return next_state[:, 0] > self.limit

    def advance(self, state, action, *, t=0, context=None):
        following = Linear()(state, action)
        reward = self.reward(state, action, following)
        return Transition(following, reward, following, self.terminated(following))

    def step(self, state, action, *, t=0, context=None):
        with torch.no_grad():
            return self.advance(state, action)

    def make_env(self, render_mode=None):
        raise NotImplementedError


def quadratic(value, weights):
    return ((value @ weights) * value).sum(-1)


OPEN = {"kind": "open_loop", "steps": H, "initial_spread": 0.5, "initial_sd": 0.4}
CLOSED = {
    "kind": "gaussian_mlp",
    "hidden": [],
    "deviation": "per_step",
    "steps": H,
    "initial_sd": 0.4,
    "output_scale": 0.3,
    "dtype": "float64",
}

# Without a clock: a policy that may begin in remembered states.
TIMELESS = {**CLOSED, "deviation": "constant", "steps": None}


class Setup(NamedTuple):
    graph: object
    subject: Subject
    estimator: object


def setup(policy=CLOSED, task=None, batch=BATCH, horizon=H, vary=True, **estimator):
    """Return an estimator of a problem; ``vary`` moves the deviations apart after its making."""
    task = task or LinearQuadratic()
    generator = torch.Generator().manual_seed(7)
    graph = build_graph({"nodes": {"policy": policy}}, task, generator=generator)
    subject = Subject.of(graph, horizon=horizon, batch=batch)
    kind = estimator.pop("kind", "pathwise")
    made = ESTIMATORS[kind](subject, **estimator)
    if vary:
        with torch.no_grad():
            for name, parameter in subject.parameters.items():
                if name.endswith("log_sd"):
                    shift = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                    parameter.add_(0.5 * shift)
    return Setup(graph, subject, made)


def objective(weights=None, gains=None, horizon=H, discount=0.9):
    discounts = discount ** torch.arange(horizon, dtype=torch.float64)
    return Objective(discounts, discounts if weights is None else weights, gains)


def problem(task, batch, generator, aim=None):
    aim = aim or objective()
    return Problem(task.start(batch, generator), len(aim.weights), aim, generator)


def flat(gradients):
    """The gradient of J in one vector: estimators give that of -J."""
    return -torch.cat([g.flatten() for g in gradients.values()])


def estimates(made, *, batch=BATCH, samples=SAMPLES, aim=None, seed=0):
    """Estimates of the gradient of J, one a row, of ``samples`` rollouts altogether."""
    generator, task = torch.Generator().manual_seed(seed), made.graph.task
    rows = [
        flat(made.estimator.estimate(problem(task, batch, generator, aim)).gradients)
        for _ in range(samples // batch)
    ]
    return torch.stack(rows)


def assert_mean(rows, expected):
    """The mean of the rows is ``expected``: within 3 standard errors each, and jointly."""
    n, p = rows.shape
    error = rows.mean(0) - expected
    deviations = rows.std(0) / math.sqrt(n)
    assert float((error.abs() / deviations).max()) <= 3
    # Hotelling's statistic, here with the mean p of the chi-squared variable that it tends to.
    joint = float(error @ torch.linalg.solve(rows.T.cov() / n, error)) * (n - p - 2) / (n - 1)
    assert joint <= p + 4 * math.sqrt(2 * p)


class Parts(NamedTuple):
    """u_t = K_t x_t + k_t + s_t xi, a list of every step's own copies."""

    gain: list
    offset: list
    covariance: list  # of the noise of u


def return_of(parts, weights, spread=START_SD):
    """The expected weighed return, by propagating mean and covariance of the state."""
    mean, cov = START_MEAN, spread**2 * torch.eye(2, dtype=torch.float64)
    total = torch.zeros((), dtype=torch.float64)
    for weight, K, k, noise in zip(weights, *parts, strict=True):
        action = K @ mean + k
        effort = quadratic(action, R) + torch.trace(R @ (K @ cov @ K.T + noise))
        closed = A + B @ K
        mean, cov = closed @ mean + B @ k, closed @ cov @ closed.T + B @ noise @ B.T
        total = total - weight * (quadratic(mean, Q) + torch.trace(Q @ cov) + effort)
    return total


def expected(made, aim=None, spread=START_SD):
    r"""The direction of ``aim`` in closed form, in one vector.

    Every step has its own copy of the parameters, so that the derivative w.r.t. the copy of step t
    is what reaches the parameters through u_t; it is multiplied by the gain of t.
    """
    aim = aim or objective()
    policy = made.graph.nodes["policy"].policy
    names = [name.rpartition("policy.")[2] for name in made.subject.parameters]
    copies = [
        {n: p.detach().clone().requires_grad_() for n, p in policy.named_parameters()}
        for _ in range(H)
    ]
    if "mean" in names:
        gains = [torch.zeros(2, 2, dtype=torch.float64)] * H
        offsets = [copy["mean"][t] for t, copy in enumerate(copies)]
    else:
        gains = [copy["network.0.weight"] for copy in copies]
        offsets = [copy["network.0.bias"] for copy in copies]
    noise = [torch.diag((2 * copy["log_sd"][t]).exp()) for t, copy in enumerate(copies)]
    value = return_of(Parts(gains, offsets, noise), aim.weights, spread)
    total = torch.zeros(sum(p.numel() for p in policy.parameters()), dtype=torch.float64)
    for t, copy in enumerate(copies):
        found = torch.autograd.grad(
            value, list(copy.values()), retain_graph=True, allow_unused=True
        )
        by_name = dict(zip(copy, found, strict=True))
        rows = [torch.zeros_like(copy[n]) if by_name[n] is None else by_name[n] for n in names]
        factor = 1.0 if aim.gains is None else aim.gains[t]
        total += factor * torch.cat([row.flatten() for row in rows])
    return total
