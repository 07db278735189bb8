"""The differentiated step of an environment, against the environment stepped by hand."""

import re
from collections import Counter

import gymnasium
import mujoco
import numpy as np
import pytest
import torch

import mbrl
from mbrl.errors import ArgumentError, DivergenceError, TaskError
from mbrl.physics import quiet
from tests.tasks import environments
from tests.tasks.common import along, ambient, place, points, stepped

STEPPED = ["Drone", "Clocked", "Halved", "Mixer", "Ball", "Muscle", "Inputs"]
GRAPH = {"nodes": {"policy": {"kind": "deterministic_mlp", "hidden": [8], "dtype": "float64"}}}


@pytest.fixture
def made(registered):
    """Return a function from the name of a class to (task, bare environment)."""

    def make(name, **options):
        id_ = registered(getattr(environments, name), **options)
        task, env = mbrl.make_task(id_, threads=1), gymnasium.make(id_).unwrapped
        env.reset(seed=0)
        return task, env

    return make


def attributes(env, context):
    """What a user sets to give an environment its context."""
    if isinstance(env, environments.Inputs):
        return {}
    names = [n for n in ("goal", "context") if hasattr(env, n)]
    return dict.fromkeys(names, context.numpy().copy())


def enter(env, state, context, t):
    place(env, state, t=t, **attributes(env, context))
    if isinstance(env, environments.Inputs):  # in the order of mjSTATE_USER
        env.data.qfrc_applied[0] = context[0]
        env.data.xfrc_applied[1, :3] = context[1:4]
        env.data.mocap_pos[0, 1:] = context[4:6]
        env.data.mocap_pos[0, 0] = 0.1
        env.data.userdata[:] = context[6], 2.0


def hand(env, state, action, context, t):
    """Next state, reward and observation of a step by hand, in one row."""
    enter(env, state, context, t)
    observation, reward, *_ = env.step(np.asarray(action).astype(np.float64))
    data = env.data
    return np.concatenate([data.qpos, data.qvel, data.act, [reward], observation])


def ours(transition):
    columns = transition.next_state, transition.reward[:, None], transition.observation
    return torch.cat(columns, dim=1)


@pytest.mark.parametrize("name", STEPPED)
def test_a_step_is_the_environments_own_from_a_set_state(name, made):
    task, env = made(name)
    state, action, context = points(task, 4)
    for t in (0, 9):
        found = ours(task.step(state, action, t=t, context=context))
        assert not found.requires_grad
        for row in range(4):
            expected = hand(env, state[row], action[row], context[row], t)
            np.testing.assert_array_equal(found[row], expected)


@pytest.mark.parametrize("name", STEPPED)
def test_gradients_of_next_state_reward_and_observation_are_differences(name, made):
    task, env = made(name)
    state, action, context = points(task, 2)
    x, u = state.clone().requires_grad_(), action.clone().requires_grad_()
    values = ours(task.advance(x, u, t=3, context=context))
    weight = torch.linspace(-1, 2, values.shape[1], dtype=torch.float64)
    gx, gu = torch.autograd.grad(values @ weight, (x, u), torch.ones(2, dtype=torch.float64))
    for row in range(2):

        def total(x, u, row=row):
            return hand(env, x, u, context[row], 3) @ weight.numpy()

        at, given = state[row].numpy(), action[row].numpy()
        directions = np.eye(2 * env.model.nv + env.model.na)
        found = [gx[row].numpy() @ ambient(env.model, at, dx) for dx in directions]
        expected = [along(lambda x: total(x, given), env.model, at, dx) for dx in directions]  # noqa: B023
        found += gu[row].tolist()
        steps = 1e-6 * np.eye(len(given))
        expected += [(total(at, given + h) - total(at, given - h)) / 2e-6 for h in steps]
        error = np.linalg.norm(np.subtract(found, expected))
        assert error <= 1e-6 * np.linalg.norm(expected)


def test_a_formula_and_the_differentiated_step_have_one_gradient(made):
    found = {}
    for name in ("Drone", "FormulaDrone", "ContextDrone"):
        task, _ = made(name)
        graph = mbrl.build_graph(GRAPH, task, generator=torch.Generator().manual_seed(1))
        state, context = task.start(3, torch.Generator().manual_seed(0))
        state.requires_grad_()
        trajectory = graph.unroll(state, 8, context=context)
        parameters = [state, *graph.parameters()]
        gradients = torch.autograd.grad(trajectory.rewards.sum(), parameters)
        found[name] = trajectory.rewards.detach(), torch.cat([g.ravel() for g in gradients])
    own_rewards, own = found.pop("Drone")
    assert own.abs().max() > 0.1
    for rewards, gradient in found.values():
        torch.testing.assert_close(rewards, own_rewards, rtol=0, atol=1e-12)
        assert (gradient - own).norm() <= 1e-6 * own.norm()
    assert len(set(own_rewards[0].tolist())) == 3  # goals differ


def test_one_evaluation_and_one_linearisation_serve_dynamics_and_reward(made, monkeypatch):
    taken = Counter()
    step = environments.Drone.step

    def counted(env, action):
        taken[id(env)] += 1
        return step(env, action)

    task, _ = made("Drone")
    graph = mbrl.build_graph(GRAPH, task)
    state, context = task.start(3, torch.Generator().manual_seed(0))
    monkeypatch.setattr(environments.Drone, "step", counted)
    trajectory = graph.unroll(state, 5, context=context)
    assert list(taken.values()) == [5 * 3]
    trajectory.rewards.sum().backward()
    # A centre and one perturbation for each of 12 tangents and 4 actions, in the twin; and no step
    # more in the first environment.
    assert sorted(taken.values()) == [5 * 3, 5 * 3 * (1 + 12 + 4)]


def test_the_clock_of_an_unroll_is_that_of_an_episode(made):
    task, env = made("Clocked")
    graph = mbrl.build_graph(GRAPH, task)
    state, _ = task.start(1, torch.Generator().manual_seed(5))
    trajectory = graph.unroll(state, 6)
    place(env, state[0])
    rewards = [env.step(u.numpy())[1] for u in trajectory.actions.detach()[:, 0]]
    np.testing.assert_allclose(trajectory.rewards.detach()[:, 0], rewards, rtol=0, atol=1e-12)
    late = graph.unroll(state, 6, start=100).rewards - trajectory.rewards
    dt = env.dt
    expected = [((101 + t) * dt) ** 2 - ((1 + t) * dt) ** 2 for t in range(6)]
    np.testing.assert_allclose(late.detach()[:, 0], expected, rtol=0, atol=1e-12)


def test_at_an_action_bound_differences_point_inward(made):
    task, env = made("Drone")
    state, _, context = points(task, 2)
    for bound, inward in ((task.action_low, 1e-5), (task.action_high, -1e-5)):
        u = bound.expand(2, -1).clone().requires_grad_()
        (g,) = torch.autograd.grad(task.reward(state, u, state, context=context).sum(), u)
        for row in range(2):
            before = hand(env, state[row], bound, context[row], 0)[13]
            for j, h in enumerate(inward * np.eye(4)):
                after = hand(env, state[row], bound.numpy() + h, context[row], 0)[13]
                assert float(g[row, j]) == pytest.approx((after - before) / inward, abs=1e-5)
    assert g.abs().min() > 1e-4
    # Beyond it the motors give no more, and only the cost of the action is left.
    u = (task.action_high + 0.5).expand(2, -1).clone().requires_grad_()
    (g,) = torch.autograd.grad(task.reward(state, u, state, context=context).sum(), u)
    torch.testing.assert_close(g, -0.002 * u.detach(), rtol=1e-5, atol=0)


def test_bounds_are_those_of_the_action_space_or_exactly_the_models(made):
    drone, _ = made("Drone")
    assert drone.action_low.tolist() == [0.0] * 4
    assert drone.action_high.tolist() == [6.0] * 4
    mixer, _ = made("Mixer")
    assert (mixer.action_size, mixer.simulator.spec.nu) == (2, 4)
    assert mixer.action_high.tolist() == [1.0, 1.0]
    muscle, _ = made("Muscle")
    assert muscle.simulator.spec.na == 3
    assert muscle.state_size == 2 + 2 + 3


def test_differences_are_as_asked_for(made):
    task, env = made("Ball")
    state, action, _ = points(task, 1)

    def gradient(**options):
        x = state.clone().requires_grad_()
        (g,) = torch.autograd.grad(task.dynamics(**options)(x, action)[0, -1], x)
        return g[0].numpy()

    directions = np.eye(2 * env.model.nv)
    expected = np.array(
        [
            along(lambda x: stepped(env, x, action[0])[0][-1], env.model, state[0].numpy(), dx)
            for dx in directions
        ]
    )

    def error(**options):
        g = gradient(**options)
        found = [g @ ambient(env.model, state[0].numpy(), dx) for dx in directions]
        return np.linalg.norm(found - expected) / np.linalg.norm(expected)

    assert error(eps=1e-2) > 1e-4
    assert error(eps=1e-2, centered=True) < 0.1 * error(eps=1e-2)
    assert error(centered=True) < 1e-8
    assert error(method="step") < 1e-6
    with pytest.raises(ArgumentError, match=r"method 'transition' cannot differentiate test/Ball"):
        task.dynamics(method="transition")
    with pytest.raises(ArgumentError, match="eps"):
        task.dynamics(eps=-1.0)


def test_the_graph_of_an_environments_step_sees_what_the_policy_will_see(made):
    task, env = made("Seeing")
    graph = mbrl.build_graph(
        {
            "base": "empty",
            "nodes": {
                "policy": {
                    "kind": "deterministic_mlp",
                    "hidden": [8],
                    "dtype": "float64",
                    "inputs": ["seen"],
                },
                "step": {"kind": "step"},
            },
            "carry": {
                "state": "next_state",
                "seen": {"source": "next_observation", "initial": "observe"},
            },
        },
        task,
    )
    state, context = task.start(1, torch.Generator().manual_seed(5))
    trajectory = graph.unroll(state, 6, context=context, record=["seen"])
    place(env, state[0], goal=context[0].numpy())
    seen, policy = env._get_obs(), graph.nodes["policy"].policy
    for t in range(6):
        np.testing.assert_allclose(trajectory.values["seen"][t, 0].detach(), seen, atol=1e-12)
        with torch.no_grad():
            action = policy(torch.from_numpy(seen)[None])[0].numpy()
        seen, reward, *_ = env.step(action)
        assert float(trajectory.rewards[t, 0].detach()) == pytest.approx(reward, abs=1e-12)


def test_an_observation_of_ones_own_is_differentiated(made):
    task, env = made("Seeing")
    state, _, context = points(task, 3)
    x = state.clone().requires_grad_()
    seen = task.observe(x, t=4, context=context)
    weight = torch.linspace(-1, 2, seen.shape[1], dtype=torch.float64)
    (gradient,) = torch.autograd.grad((seen @ weight).sum(), x)
    for row in range(3):

        def look(x, row=row):
            place(env, x, t=4, goal=context[row].numpy())
            return env._get_obs()

        at = state[row].numpy()
        np.testing.assert_array_equal(seen[row].detach(), look(at))
        for dx in np.eye(12):
            expected = along(look, env.model, at, dx) @ weight.numpy()
            found = gradient[row].numpy() @ ambient(env.model, at, dx)
            assert found == pytest.approx(expected, rel=1e-6, abs=1e-7)


def test_an_environment_that_cannot_observe_a_set_state_says_so(made):
    task, _ = made("Blind")
    state, action, _ = points(task, 2)
    assert task.step(state, action).observation.shape == (2, 7)
    with pytest.raises(TaskError, match=r"Blind-v0: Blind has no torch formula.*or _get_obs\(\)"):
        task.observe(state)


@pytest.mark.parametrize("shape", [(4,), (1,), (13, 1), ()])
def test_an_observation_that_is_not_of_its_space_is_refused(shape, registered):
    class Forgetful(environments.Drone):
        def _get_obs(self):
            return np.zeros(shape if hasattr(self, "observation_space") else 13)

    says = rf"step returns an observation of shape {re.escape(str(shape))}, .*\(13,\)"
    with pytest.raises(TaskError, match=says):
        mbrl.make_task(registered(Forgetful), threads=1)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_function_transforms_go_through_reward_and_observation(made):
    task, _ = made("Seeing")
    state, action, context = points(task, 3)

    def reward(x, u, c):
        return task.reward(x[None], u[None], x[None], context=c[None])[0]

    def observe(x, c):
        return task.observe(x[None], context=c[None])[0]

    expected = task.reward(state, action, state, context=context)
    assert torch.equal(torch.func.vmap(reward)(state, action, context), expected)
    gradient = torch.func.vmap(torch.func.grad(reward, argnums=(0, 1)))(state, action, context)
    x, u = state.clone().requires_grad_(), action.clone().requires_grad_()
    plain = torch.autograd.grad(task.reward(x, u, x, context=context).sum(), (x, u))
    for found, wanted in zip(gradient, plain, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    jacobian = torch.func.vmap(torch.func.jacrev(observe))(state, context)
    forward = torch.func.vmap(torch.func.jacfwd(observe))(state, context)
    torch.testing.assert_close(jacobian, forward, rtol=1e-9, atol=1e-9)
    one = torch.autograd.functional.jacobian(lambda x: observe(x, context[0]), state[0])
    torch.testing.assert_close(jacobian[0], one, rtol=1e-12, atol=1e-12)


def test_rows_that_diverge_are_named(made):
    task, _ = made("Drone")
    state, action, context = points(task, 3)
    state[1, 7:] = 1e12
    with pytest.raises(
        DivergenceError, match=r"Drone-v0: the simulation diverged in rows \[1\]"
    ) as caught:
        task.step(state, action, context=context)
    assert caught.value.rows == (1,)
    with pytest.raises(DivergenceError, match=r"rows \[1\]"):
        task.reward(state, action, state, context=context)


def test_an_environment_whose_step_raises_is_named(made):
    task, _ = made("Fragile")
    state, action, context = points(task, 2)
    state[1, 2] = 100.0
    with pytest.raises(TaskError, match=r"Fragile-v0: step raised ValueError: out of sight$"):
        task.step(state, action, context=context)


def test_time_limits_and_wrappers_of_an_episode_do_not_reach_a_step(made):
    task, env = made("Drone", max_episode_steps=2)
    assert task.max_episode_steps == 2
    state, action, context = points(task, 1)
    for t in (0, 1, 2, 50):
        transition = task.advance(state, action, t=t, context=context)
        assert not transition.terminated.any()
        np.testing.assert_array_equal(
            ours(transition)[0], hand(env, state[0], action[0], context[0], t)
        )


def test_the_twin_converges_its_solver_and_the_environment_keeps_its_own(registered):
    class Resting(environments.Drone):
        """Lies on the floor; its solver gives up at once."""

        xml = environments.DRONE.replace(
            "<worldbody>",
            '<option solver="PGS" iterations="2"/><worldbody><geom type="plane" size="5 5 0.1"/>',
        ).replace('pos="0 0 1"', 'pos="0 0 0.05"')

    id_ = registered(Resting)
    task, env = mbrl.make_task(id_, threads=1), gymnasium.make(id_).unwrapped
    env.reset(seed=0)
    state = torch.from_numpy(np.concatenate([env.init_qpos, np.zeros(6)]))[None]
    state[0, 2] -= 0.001
    action = torch.full((1, 4), 0.5, dtype=torch.float64)
    _, context = task.start(1, torch.Generator().manual_seed(0))
    expected = stepped(env, state[0], action[0], goal=context[0].numpy())[0]
    np.testing.assert_array_equal(task.step(state, action, context=context).next_state[0], expected)
    u = action.clone().requires_grad_()
    (found,) = torch.autograd.grad(task.advance(state, u, context=context).next_state[0, 2], u)
    assert task._env.model.opt.iterations == 2
    env.model.opt.solver = mujoco.mjtSolver.mjSOL_NEWTON
    env.model.opt.iterations, env.model.opt.tolerance = 200, 0.0
    exact = []
    with quiet():
        for h in 1e-5 * np.eye(4):
            ends = [
                stepped(env, state[0], action[0].numpy() + s * h, goal=context[0].numpy())[0][2]
                for s in (1, -1)
            ]
            exact.append((ends[0] - ends[1]) / 2e-5)
    np.testing.assert_allclose(found[0], exact, rtol=1e-3, atol=1e-9)
