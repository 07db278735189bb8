"""What is observed of a model: its state, or angles that can turn round as (cos, sin)."""

import math
import pickle

import gymnasium
import numpy as np
import pytest
import torch

import mbrl
from mbrl.errors import ConfigError
from tests.tasks.common import points

NAME = "mbrl/Residual-v0"
COST = {"upright": {"residual": {"kind": "angle", "joint": "hinge", "target": 0}}}
CARTPOLE = {"model": "cartpole.xml", "cost": COST, "frame_skip": 2, "max_episode_steps": 500}
TREE = """
<mujoco>
  <worldbody>
    <body>
      <joint name="hinge"/>
      <joint name="stopped" axis="0 1 0" range="-2 2" limited="true"/>
      <geom size="0.1"/>
      <body pos="1 0 0"><joint type="ball"/><geom size="0.1"/>
        <body pos="1 0 0"><joint axis="1 0 0"/><geom size="0.1"/></body>
      </body>
    </body>
  </worldbody>
  <actuator>
    <general joint="hinge" dyntype="filter" dynprm="0.1" ctrllimited="true" ctrlrange="-1 1"/>
  </actuator>
</mujoco>
"""


def by_hand(state):
    cart, angle, velocity, spin = state
    return [cart, math.cos(angle), math.sin(angle), velocity, spin]


def test_the_pole_of_a_cart_is_seen_round_the_turn():
    task = mbrl.make_task(NAME, threads=1, observe="trigonometric", **CARTPOLE)
    assert (task.state_size, task.observation_size, task.max_episode_steps) == (4, 5, 500)
    env = task.make_env()
    observation, _ = env.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(20):
        state = task.state_of(env)
        np.testing.assert_allclose(observation, by_hand(state), rtol=1e-15)
        assert torch.equal(
            task.observe(torch.from_numpy(state)[None])[0], torch.from_numpy(observation)
        )
        observation, *_ = env.step(rng.uniform(-1, 1, 1))
    angles = torch.tensor([1.0, 1.0 + 2 * math.pi], dtype=torch.float64)
    seen = task.observe(torch.nn.functional.pad(angles[:, None], (1, 2)))
    torch.testing.assert_close(seen[0], seen[1], rtol=0, atol=1e-14)


def test_reward_and_steps_are_those_of_the_plain_observation():
    plain, turned = (
        mbrl.make_task(NAME, threads=1, observe=observe, **CARTPOLE)
        for observe in ("state", "trigonometric")
    )
    assert plain.observation_size == 4
    state, action, _ = points(plain, 4)
    one, other = plain.step(state, action), turned.step(state, action)
    assert torch.equal(one.next_state, other.next_state)
    assert torch.equal(one.reward, other.reward)
    assert torch.equal(plain.observe(state), state)


@pytest.mark.parametrize("observe", ["state", "trigonometric"])
def test_what_a_plan_of_observations_costs_is_the_negative_reward(observe):
    cost = {
        **COST,
        "still": {"residual": {"kind": "joint_velocity", "joint": "hinge"}, "weight": 0.1},
        "effort": {"residual": {"kind": "control"}, "weight": 0.3},
    }
    task = mbrl.make_task(NAME, threads=1, observe=observe, **{**CARTPOLE, "cost": cost})
    env = task.make_env()
    seen, _ = env.reset(seed=1)
    rng = np.random.default_rng(0)
    for _ in range(5):
        action = rng.uniform(-1, 1, 1)
        following, reward, *_ = env.step(action)
        rows = (torch.from_numpy(np.stack([part, part])) for part in (seen, action, following))
        found = task.observed_cost(*rows)
        np.testing.assert_allclose(found, [-reward, -reward], rtol=1e-13)
        seen = following


def test_a_cost_that_depends_on_the_time_is_none_of_observations():
    late = {"upright": {**COST["upright"], "after": 1.0}}
    assert mbrl.make_task(NAME, threads=1, **{**CARTPOLE, "cost": late}).observed_cost is None


def test_only_hinges_without_limits_turn_round(tmp_path):
    path = tmp_path / "tree.xml"
    path.write_text(TREE)
    task = mbrl.make_task(
        NAME, threads=1, model=str(path), cost=COST, observe="trigonometric", max_episode_steps=5
    )
    state, _, _ = points(task, 3)
    for x, o in zip(state.tolist(), task.observe(state).tolist(), strict=True):
        # hinge, stopped, quaternion, hinge; velocities and activation
        expected = [math.cos(x[0]), math.sin(x[0]), *x[1:6], math.cos(x[6]), math.sin(x[6]), *x[7:]]
        assert o == pytest.approx(expected, rel=1e-15)


def test_a_pickled_environment_observes_the_same():
    env = gymnasium.make(NAME, observe="trigonometric", **CARTPOLE).unwrapped
    copy = pickle.loads(pickle.dumps(env))
    np.testing.assert_array_equal(env.reset(seed=3)[0], copy.reset(seed=3)[0])


def test_other_words_are_refused():
    with pytest.raises(ConfigError, match=r"task_args.observe: unknown value 'trig'; legal: state"):
        mbrl.make_task(NAME, threads=1, observe="trig", **CARTPOLE)
