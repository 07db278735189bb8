"""The loss of policies: many sets of parameters against one at a time."""

import copy
from pathlib import Path

import pytest
import torch

import mbrl
from mbrl.algorithms import PolicyGradient, Setting
from mbrl.errors import ArgumentError, DivergenceError, GraphError
from mbrl.graph import Node, build_graph
from mbrl.landscape import LandscapeOptions, PolicyLoss, surface
from mbrl.nn import Policy
from mbrl.registry import NODES, POLICIES
from tests.learned_runs import needed

GRAPHS = Path(__file__).parents[2] / "configs" / "graphs"
PENDULUM = "mbrl/SmoothInvertedPendulum-v0"
HORIZON, BATCH, DISCOUNT = 5, 3, 0.9
MLP = {"kind": "deterministic_mlp", "hidden": [8]}
POLICIES_TO_TRY = {
    "normalised": {**MLP, "normalize": True},
    "double": {**MLP, "dtype": "float64", "activation": "silu"},
    "gaussian": {"kind": "gaussian_mlp", "hidden": [8], "initial_sd": 0.5},
    "constant": {"kind": "gaussian_mlp", "hidden": [8], "deviation": "constant"},
    "per_step": {"kind": "gaussian_mlp", "hidden": [8], "deviation": "per_step", "steps": 3},
    "open_loop": {"kind": "open_loop", "steps": HORIZON, "initial_spread": 1.0},
    "noisy_open_loop": {"kind": "open_loop", "steps": 3, "initial_sd": 0.3, "after": "repeat"},
}


@pytest.fixture(scope="module")
def pendulum():
    return mbrl.make_task(PENDULUM, threads=1, reset_noise_scale=0.1)


def loss_of(task, graph, seed=0):
    """The loss as an algorithm makes it, and the graph."""
    generator = torch.Generator().manual_seed(seed)
    options = {"horizon": HORIZON, "batch": BATCH, "discount": DISCOUNT}
    algorithm = PolicyGradient(Setting(task, graph, generator), **options)
    return algorithm.loss(generator), algorithm


def points_near(loss, count, size=0.3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, len(loss.solution), generator=generator, dtype=torch.float64)
    return loss.solution + size * noise


def alone(loss, graph, point):
    """The loss at a point: set the parameters, unroll, add up."""
    twin = copy.deepcopy(graph)
    named, at = dict(twin.named_parameters()), 0
    with torch.no_grad():
        for name, shape in loss.layout.items():
            size = torch.Size(shape).numel()
            named[name].copy_(point[at : at + size].reshape(shape))
            at += size
        assert at == len(point)
        state, context = loss.start
        noise = torch.Generator().manual_seed(loss.noise_seed)
        found = twin.unroll(state, HORIZON, generator=noise, context=context)
    powers = torch.tensor([DISCOUNT**t for t in range(HORIZON)], dtype=torch.float64)
    return -float((powers[:, None] * found.rewards).sum() / len(state))


def agrees(loss, graph, points):
    values = loss.values(points)
    expected = [alone(loss, graph, point) for point in points]
    assert len({f"{value:.6g}" for value in expected}) > 1
    # Single precision: a batched product rounds otherwise than a single one.
    torch.testing.assert_close(
        values, torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("name", POLICIES_TO_TRY)
def test_points_are_what_they_are_one_by_one(pendulum, name):
    policy = POLICIES_TO_TRY[name]
    loss, algorithm = loss_of(pendulum, {"nodes": {"policy": policy}})
    for normalizers in algorithm.graph.normalizers().values():
        normalizers[0].mean.add_(0.1)
        normalizers[0].scale.mul_(0.3)
    points = torch.cat([loss.solution[None], points_near(loss, 4)])
    agrees(loss, algorithm.graph, points)


@pytest.mark.parametrize("file", sorted(GRAPHS.glob("*.yaml")), ids=lambda file: file.stem)
def test_shipped_graphs(file, tmp_path):
    config = mbrl.load_config(file, needed(file, tmp_path))
    task = mbrl.make_task(config.task, threads=1, **config.task_args)
    loss, algorithm = loss_of(task, config.graph)
    agrees(loss, algorithm.graph, torch.cat([loss.solution[None], points_near(loss, 2, 0.05)]))


def test_episodes_that_end():
    """Rows stop earning when they end, each when it does."""
    task = mbrl.make_task("mbrl/SmoothHopper-v0", threads=1)
    loss, algorithm = loss_of(task, {"nodes": {"policy": {**MLP, "output_scale": 1.0}}})
    agrees(loss, algorithm.graph, points_near(loss, 6, 1.0))


def test_contexts_belong_to_their_rows():
    task = mbrl.make_task("mbrl/Reach-v0", threads=1)
    loss, algorithm = loss_of(task, {"nodes": {"policy": MLP}})
    agrees(loss, algorithm.graph, points_near(loss, 4))


def test_gradients_are_those_of_the_values(pendulum):
    policy = {"kind": "open_loop", "steps": HORIZON, "initial_sd": 0.2}
    loss, _ = loss_of(pendulum, {"nodes": {"policy": policy}})
    points = points_near(loss, 3)
    eye, step = torch.eye(points.shape[1], dtype=torch.float64), 1e-5
    for point, gradient in zip(points, loss.gradients(points), strict=True):
        rise = loss.values(point + step * eye) - loss.values(point - step * eye)
        torch.testing.assert_close(gradient, rise / (2 * step), rtol=1e-4, atol=1e-5)


def test_gradients_in_parts_are_the_same(pendulum):
    loss, _ = loss_of(pendulum, {"nodes": {"policy": {**MLP, "dtype": "float64"}}})
    points = points_near(loss, 5)
    whole = loss.gradients(points)
    loss.at_once = 1
    torch.testing.assert_close(loss.gradients(points), whole, rtol=1e-9, atol=1e-12)


def test_a_constant_reward_has_no_principal_directions():
    task = mbrl.make_task("InvertedPendulum-v5", threads=1)
    graph = build_graph({"nodes": {"policy": MLP}}, task)
    generator = torch.Generator().manual_seed(0)
    parameters = dict(graph.named_parameters())
    loss = PolicyLoss(graph, parameters, task.start(2, generator), torch.ones(3), generator)
    with pytest.raises(ArgumentError, match=r"landscape\.directions.*legal: random"):
        surface(loss, LandscapeOptions(directions="principal"), generator)


def test_filters_keep_their_norms(pendulum):
    """A row of weights is a filter, and so is a whole vector; ranges scale action sequences."""
    loss, algorithm = loss_of(pendulum, {"nodes": {"policy": {**MLP, "hidden": [4]}}})
    named = dict(algorithm.graph.named_parameters())
    with torch.no_grad():
        for i, parameter in enumerate(named.values()):
            parameter.add_(0.1 * (i + 1))
    loss = algorithm.loss(torch.Generator().manual_seed(0))
    direction = points_near(loss, 1, 1.0)[0] - loss.solution
    scaled, at = loss.filtered(direction), 0
    for name, shape in loss.layout.items():
        size = torch.Size(shape).numel()
        rows = shape[0] if len(shape) == 2 else 1
        d, s, p = (
            v.double().reshape(rows, -1)
            for v in (direction[at : at + size], scaled[at : at + size], named[name].detach())
        )
        torch.testing.assert_close(s.norm(dim=1), p.norm(dim=1), rtol=1e-6, atol=0)
        cosines = torch.cosine_similarity(s, d, dim=1)
        torch.testing.assert_close(cosines, torch.ones(rows).double(), rtol=1e-6, atol=0)
        at += size


def test_zero_filters_stay():
    task = mbrl.make_task(PENDULUM, threads=1)
    loss, algorithm = loss_of(task, {"nodes": {"policy": MLP}})
    biases = torch.cat(
        [
            torch.full(shape, float(name.endswith("bias"))).flatten()
            for name, shape in loss.layout.items()
        ]
    ).bool()
    scaled = loss.filtered(torch.ones(len(loss.solution), dtype=torch.float64))
    assert torch.equal(scaled == 0, biases)
    with torch.no_grad():
        for parameter in algorithm.graph.parameters():
            parameter.zero_()
    zero = algorithm.loss(torch.Generator())
    with pytest.raises(ArgumentError, match=r"landscape\.normalize: .*all zero; legal: none"):
        surface(zero, LandscapeOptions(points=2), torch.Generator())


def test_open_loop_directions_are_in_half_the_ranges(pendulum):
    policy = {"kind": "open_loop", "steps": 4, "initial_sd": 0.2}
    loss, _ = loss_of(pendulum, {"nodes": {"policy": policy}})
    ones = torch.ones(len(loss.solution), dtype=torch.float64)
    half = float(pendulum.action_high[0])
    assert half != 1
    expected = {"nodes.policy.policy.mean": half, "nodes.policy.policy.log_sd": abs(-1.6094379)}
    at = 0
    for name, shape in loss.layout.items():
        size = torch.Size(shape).numel()
        assert loss.filtered(ones)[at : at + size].tolist() == pytest.approx(
            [expected[name]] * size
        )
        at += size
    assert loss.unit.max() == half


# Divergence


class Fragile(Node):
    """Actions, which diverge where they exceed 0.5, or are the third step's and exceed 0.4."""

    inputs = {"value": "nu"}
    outputs = {"action": "nu"}

    def forward(self, step, value):
        limit = 0.4 if step.t == 2 else 0.5
        rows = (value[:, 0] > limit).nonzero()[:, 0]
        if len(rows):
            raise DivergenceError("too much", rows)
        return value


FRAGILE = {
    "nodes": {
        "policy": {"kind": "gaussian_mlp", "hidden": [8], "initial_sd": 0.05, "outputs": ["raw"]},
        "fragile": {"kind": "fragile", "inputs": ["raw"], "outputs": ["action"]},
    }
}


@pytest.fixture
def fragile(monkeypatch, pendulum):
    monkeypatch.setitem(NODES._entries, "fragile", Fragile)
    return loss_of(pendulum, FRAGILE)


def test_points_that_diverge_are_infinite_and_the_others_what_they_are(fragile):
    loss, algorithm = fragile
    points = points_near(loss, 40, 0.6)
    values, diverged = loss.values(points), 0
    for value, point in zip(values, points, strict=True):
        try:
            expected = alone(loss, algorithm.graph, point)
        except DivergenceError:
            diverged += 1
            assert value == torch.inf
        else:
            assert float(value) == pytest.approx(expected, rel=1e-5)
    assert 5 < diverged < 35
    gradients = loss.gradients(points)
    assert torch.equal(gradients.isnan().all(1), values.isinf())
    kept = points[values.isfinite()]
    torch.testing.assert_close(
        gradients[values.isfinite()], loss.gradients(kept), rtol=1e-4, atol=1e-5
    )


def test_nothing_is_left(fragile):
    loss, _ = fragile
    far = loss.solution.expand(3, -1).clone()
    at = 0
    for name, shape in loss.layout.items():
        size = torch.Size(shape).numel()
        if name.endswith("2.bias"):
            far[:, at] = 100.0
        at += size
    assert loss.values(far).tolist() == [torch.inf] * 3
    assert loss.gradients(far).isnan().all()


def test_an_error_that_names_no_rows_is_not_hidden(monkeypatch, pendulum):
    class Broken(Fragile):
        def forward(self, step, value):
            raise DivergenceError("all is lost")

    monkeypatch.setitem(NODES._entries, "fragile", Broken)
    loss, _ = loss_of(pendulum, FRAGILE)
    with pytest.raises(DivergenceError, match="all is lost"):
        loss.values(loss.solution[None])


def test_a_policy_that_cannot_be_batched_is_named(monkeypatch, pendulum):
    class Branching(Policy):
        def __init__(self, observation_size, action_low, action_high, generator):
            super().__init__()
            self.gain = torch.nn.Parameter(torch.zeros(observation_size, 1).double())

        def forward(self, observation, step=None):
            return observation @ self.gain if self.gain.sum() > 1 else observation[:, :1]

    monkeypatch.setitem(POLICIES._entries, "branching", Branching)
    loss, _ = loss_of(pendulum, {"nodes": {"policy": {"kind": "branching"}}})
    with pytest.raises(GraphError, match=r"graph\.nodes\.policy: .* many sets"):
        loss.values(loss.solution[None])
