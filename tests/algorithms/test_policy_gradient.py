"""The pathwise gradient against differences of the return itself."""

import copy

import gymnasium
import mujoco
import numpy as np
import pytest
import torch
from gymnasium.envs.mujoco.ant_v5 import AntEnv

import mbrl
from mbrl.algorithms import PolicyGradient, Setting
from mbrl.algorithms.optimizer import OptimizerOptions
from mbrl.errors import ArgumentError, DivergenceError
from mbrl.graph import Node
from mbrl.registry import NODES


class FloatingAnt(AntEnv):
    """An ant high in the air without gravity: a free joint, and no constraint to be active."""

    def __init__(self):
        super().__init__(
            terminate_when_unhealthy=False,
            include_cfrc_ext_in_observation=False,
            reset_noise_scale=0.03,
        )
        self.model.opt.gravity[:] = 0

    def reset_model(self):
        super().reset_model()
        self.data.qpos[2] = 3.0
        self.data.qpos[8::2] += 0.87 * np.array([1, -1, -1, 1])  # ankles to mid-range
        self.set_state(self.data.qpos, self.data.qvel)
        return self._get_obs()

    def tensor_observation(self, state):
        return state[:, 2:]

    def tensor_reward(self, state, action, next_state):
        return (next_state[:, 0] - state[:, 0]) / self.dt - 0.5 * (action**2).sum(-1)

    def tensor_terminated(self, next_state):
        return torch.zeros(len(next_state), dtype=torch.bool)


if "test/FloatingAnt-v0" not in gymnasium.registry:
    gymnasium.register("test/FloatingAnt-v0", entry_point=FloatingAnt, max_episode_steps=100)

# (task, horizon, scale of the initial policy)
CASES = [
    ("mbrl/SmoothInvertedPendulum-v0", 50, 0.3),
    ("mbrl/SmoothInvertedDoublePendulum-v0", 50, 0.3),
    ("Swimmer-v5", 50, 0.03),
    ("test/FloatingAnt-v0", 20, 0.01),
]
# Small, because trajectories meet the rail's end and joint limits: across such a kink differences
# of the return mean nothing, whatever the gradient.
STEP = 1e-7


def returns(graph, state, horizon):
    return graph.unroll(state, horizon).rewards.sum(0).mean()


@pytest.mark.parametrize(("name", "horizon", "scale"), CASES)
def test_gradient_of_the_return_equals_its_differences(name, horizon, scale):
    task = mbrl.make_task(name)
    section = {"nodes": {"policy": {"hidden": [8], "dtype": "float64", "output_scale": scale}}}
    graph = mbrl.build_graph(section, task)
    state = task.reset(3, torch.Generator().manual_seed(0))
    parameters = list(graph.parameters())
    gradient = torch.autograd.grad(returns(graph, state, horizon), parameters)
    if "Ant" in name:
        assert_no_constraint(task, graph.unroll(state, horizon))
    generator = torch.Generator().manual_seed(1)
    original = [p.detach().clone() for p in parameters]
    difference, product = [], []
    with torch.no_grad():
        for _ in range(4):
            direction = [
                torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters
            ]
            values = []
            for sign in (1, -1):
                for p, value, d in zip(parameters, original, direction, strict=True):
                    p.copy_(value + sign * STEP * d)
                values.append(float(returns(graph, state, horizon)))
            difference.append((values[0] - values[1]) / (2 * STEP))
            product.append(
                sum(float((g * d).sum()) for g, d in zip(gradient, direction, strict=True))
            )
    error = np.linalg.norm(np.subtract(difference, product)) / np.linalg.norm(difference)
    assert error <= 1e-4


def assert_no_constraint(task, trajectory):
    model = task.simulator.model
    data = mujoco.MjData(model)
    for state in trajectory.states.detach().flatten(0, 1).numpy():
        data.qpos, data.qvel, _ = task.simulator.spec.split(state)
        mujoco.mj_forward(model, data)
        assert data.nefc == 0
        assert float(abs(data.qvel).max()) > 0


def make(task_name="mbrl/SmoothInvertedPendulum-v0", graph=None, **options):
    task = mbrl.make_task(task_name, threads=1)
    generator = torch.Generator().manual_seed(0)
    return PolicyGradient(Setting(task, graph or {}, generator), **options)


def test_an_update_is_the_optimisers_step_along_the_discounted_gradient():
    options = {"horizon": 7, "batch": 3, "discount": 0.8, "clip_norm": None}
    algorithm = make(optimizer=OptimizerOptions(kind="sgd", lr=0.5), **options)
    reference = make(**options)
    generator = torch.Generator()
    generator.set_state(reference._generator.get_state())
    state = reference._task.reset(3, generator)
    trajectory = reference.graph.unroll(state, 7, generator=generator)
    weights = torch.tensor([0.8**t for t in range(7)], dtype=torch.float64)
    value = (weights[:, None] * trajectory.rewards).sum(0).mean()
    gradient = torch.autograd.grad(value, list(reference.graph.parameters()))
    measured = algorithm.update()
    for p, q, g in zip(
        algorithm.graph.parameters(), reference.graph.parameters(), gradient, strict=True
    ):
        torch.testing.assert_close(p, q + 0.5 * g)
    assert measured["return_mean"] == pytest.approx(float(value.detach()))
    assert measured["env_steps"] == 21
    norm = torch.cat([g.flatten() for g in gradient]).norm()
    assert measured["gradient_norm"] == pytest.approx(float(norm), rel=1e-5)


def test_clipping_limits_the_step_and_the_schedule_lowers_the_rate():
    sgd = OptimizerOptions(kind="sgd", lr=1.0, final_lr=0.0)
    algorithm = make(horizon=5, batch=2, updates=4, clip_norm=1e-5, optimizer=sgd)
    rates, steps = [], []
    for _ in range(4):
        before = [p.detach().clone() for p in algorithm.graph.parameters()]
        rates.append(algorithm.update()["learning_rate"])
        after = algorithm.graph.parameters()
        steps.append(
            sum(float((a - b).detach().square().sum()) for a, b in zip(after, before, strict=True))
            ** 0.5
        )
    assert rates == [1.0, 0.75, 0.5, 0.25]
    np.testing.assert_allclose(steps, [1e-5 * rate for rate in rates], rtol=1e-2)


def test_training_improves_the_return():
    algorithm = make(horizon=30, batch=8, updates=12, optimizer=OptimizerOptions(lr=0.02))
    first = algorithm.update()["return_mean"]
    for _ in range(11):
        last = algorithm.update()["return_mean"]
    assert last > first + 1.0


def test_state_dict_restores_everything():
    section = {"nodes": {"policy": {"kind": "gaussian_mlp", "normalize": True}}}
    one, other = (make(graph=section, horizon=4, batch=2) for _ in range(2))
    for _ in range(3):
        one.update()
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    assert one.update() == other.update()
    assert all(map(torch.equal, one.graph.parameters(), other.graph.parameters()))


def test_mistakes_are_named():
    with pytest.raises(ArgumentError, match="no pathwise gradient"):
        make("InvertedPendulum-v5", horizon=3, batch=2).update()
    for key, value in (
        ("horizon", 0),
        ("batch", 0),
        ("updates", 0),
        ("discount", 1.5),
        ("clip_norm", 0.0),
    ):
        with pytest.raises(ArgumentError, match=rf"algorithm\.{key} must"):
            make(**{key: value})


def test_weights_returns_and_gradients_that_are_not_finite_stop_the_run(monkeypatch):
    algorithm = make(horizon=3, batch=2)
    with torch.no_grad():
        next(iter(algorithm.graph.parameters())).fill_(float("nan"))
    with pytest.raises(DivergenceError, match="ctrl must be finite"):
        algorithm.update()
    algorithm = make(horizon=3, batch=2)
    reward = algorithm._task.reward
    monkeypatch.setattr(algorithm._task, "reward", lambda *x, **k: reward(*x, **k) * float("inf"))
    with pytest.raises(DivergenceError, match="the return is not finite"):
        algorithm.update()

    def infinite_slope(*x, **_):
        return (x[2].sum(-1) * 0).sqrt()

    algorithm = make(horizon=3, batch=2, clip_value=0.1)
    monkeypatch.setattr(algorithm._task, "reward", infinite_slope)
    with pytest.raises(DivergenceError, match="the gradient of the return is not finite"):
        algorithm.update()
    # With adaptive rollouts it is not followed: they shorten.
    algorithm = make(horizon=8, horizon_start=2, batch=2)
    algorithm._length = 8
    monkeypatch.setattr(algorithm._task, "reward", infinite_slope)
    assert algorithm.update()["followed"] == 0
    assert algorithm._length == 6


@pytest.mark.parametrize("slope", [1e22, 1e30])
def test_gradients_whose_squares_overflow_are_clipped_or_refused(slope, monkeypatch):
    sgd = OptimizerOptions(kind="sgd", lr=1.0)
    options = {"graph": {"nodes": {"policy": {"dtype": "float32"}}}, "horizon": 3, "batch": 2}

    def steep(*x, **_):
        return slope * x[1].sum(-1)

    algorithm = make(**options, clip_norm=0.01, optimizer=sgd)
    monkeypatch.setattr(algorithm._task, "reward", steep)
    before = [p.detach().clone() for p in algorithm.graph.parameters()]
    assert algorithm.update()["followed"] == 1
    moved = [a.detach() - b for a, b in zip(algorithm.graph.parameters(), before, strict=True)]
    assert float(torch.cat([m.flatten() for m in moved]).norm()) == pytest.approx(0.01, rel=1e-3)
    algorithm = make(**options, clip_norm=None)
    monkeypatch.setattr(algorithm._task, "reward", steep)
    before = [p.detach().clone() for p in algorithm.graph.parameters()]
    with pytest.raises(DivergenceError, match=r"too large to be squared.*algorithm.clip_norm"):
        algorithm.update()
    assert all(map(torch.equal, before, algorithm.graph.parameters()))


def test_a_failed_update_leaves_the_normalisers_as_they_were(monkeypatch):
    section = {"nodes": {"policy": {"kind": "gaussian_mlp", "normalize": True}}}
    algorithm = make(graph=section, horizon=4, batch=2)
    algorithm.update()
    before = copy.deepcopy(algorithm.graph.state_dict())
    monkeypatch.setattr(algorithm._task, "reward", lambda *x, **k: x[0][:, 0] * float("inf"))
    with pytest.raises(DivergenceError):
        algorithm.update()
    after = algorithm.graph.state_dict()
    assert any("normalizer.scale" in name for name in after)
    for name, value in before.items():
        assert torch.equal(value, after[name]), name


def test_what_was_measured_is_what_the_rollouts_were_made_by():
    section = {"nodes": {"policy": {"kind": "gaussian_mlp", "normalize": True}}}
    algorithm = make(graph=section, horizon=4, batch=2)
    for _ in range(2):
        before = copy.deepcopy(algorithm.graph.state_dict())
        algorithm.update()
        kept = algorithm.measured_state_dict()["graph"]
        weights = [name for name in before if "normalizer" not in name]
        assert all(torch.equal(kept[name], before[name]) for name in weights)
        present = algorithm.state_dict()["graph"]
        assert not all(torch.equal(kept[name], present[name]) for name in weights)
    fresh = make(graph=section, horizon=4, batch=2)
    fresh.load_state_dict(algorithm.measured_state_dict())


def test_rewards_that_torch_cannot_differentiate_are_told_from_constant_ones(monkeypatch):
    algorithm = make(horizon=4, batch=2)
    monkeypatch.setattr(algorithm._task, "reward", lambda *x, **k: x[2][:, 0].detach())
    with pytest.raises(ArgumentError, match=r"varies, but torch finds no slope: .*leaves torch"):
        algorithm.update()
    monkeypatch.setattr(algorithm._task, "reward", lambda *x, **k: torch.ones(len(x[0])).double())
    with pytest.raises(ArgumentError, match="is constant along a rollout"):
        algorithm.update()


def test_only_the_policys_parameters_are_trained():
    class Scaled(Node):
        inputs = {"state": "nx", "action": "nu"}
        outputs = {"next_state": "nx"}

        def __init__(self, place):
            super().__init__(place)
            self.scale = torch.nn.Parameter(torch.tensor(0.9, dtype=torch.float64))

        def forward(self, step, state, action):
            return self.scale * state + action

    mbrl.register_node("test_scaled")(Scaled)
    try:
        algorithm = make(graph={"nodes": {"dynamics": {"kind": "test_scaled"}}}, horizon=3, batch=2)
    finally:
        del NODES._entries["test_scaled"]
    before = [p.detach().clone() for p in algorithm.graph.nodes["policy"].parameters()]
    algorithm.update()
    assert float(algorithm.graph.nodes["dynamics"].scale.detach()) == 0.9
    after = list(algorithm.graph.nodes["policy"].parameters())
    assert not all(map(torch.equal, before, after))


def test_rollouts_lengthen_while_gradients_are_stable_and_exploded_ones_are_not_followed():
    algorithm = make(horizon=30, horizon_start=19, batch=2, stable_norm=1e9)
    horizons = [algorithm.update()["horizon"] for _ in range(9)]
    assert horizons == [19, 20, 21, 23, 25, 27, 29, 30, 30]  # by a twentieth, rounded up

    algorithm._stable_norm = 0.0
    measured = [algorithm.update() for _ in range(3)]
    assert [m["horizon"] for m in measured] == [30, 24, 19]
    # At the shortest length there is nothing else to do than to follow.
    assert [m["followed"] for m in measured] == [0, 0, 1]
    assert measured[0]["gradient_norm"] > 0

    restored = make(horizon=30, horizon_start=19, batch=2, stable_norm=1e-300)
    algorithm._length = 25
    restored.load_state_dict(copy.deepcopy(algorithm.state_dict()))
    before = [p.detach().clone() for p in restored.graph.parameters()]
    assert restored.update()["horizon"] == 25
    assert all(map(torch.equal, before, restored.graph.parameters()))


def test_a_start_beyond_the_end_is_refused():
    with pytest.raises(ArgumentError, match="horizon_start must lie between 1 and horizon, got 9"):
        make(horizon=8, horizon_start=9)
