"""Environments that compute in single precision, as Gymnasium's usual spaces invite to."""

import warnings

import numpy as np
import pytest
import torch
from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv

import mbrl
from tests.tasks.environments import Drone

STATE = torch.zeros(2, 13, dtype=torch.float64)
STATE[:, 2], STATE[:, 3], STATE[:, 7:] = 2.3, 1.0, 0.4
ACTION = torch.tensor([[2.3, 2.1, 2.6, 2.2], [0.31, 1.7, 3.3, 2.9]], dtype=torch.float64)


class Exact(Drone):
    """The twin of all below: its reward is made of what it observes."""

    def draw(self):
        pass

    def step(self, action):
        self.do_simulation(self.acted(action), self.frame_skip)
        seen = self._get_obs()
        return seen, self.rewarded(float(-np.square(seen - 1.0).sum())), False, False, {}

    def acted(self, action):
        return action

    def rewarded(self, reward):
        return reward

    def _get_obs(self):
        return np.concatenate([self.data.qpos, self.data.qvel])


class RoundedAction(Exact):
    def acted(self, action):
        return np.asarray(action, np.float32)


class RoundedReward(Exact):
    def rewarded(self, reward):
        return float(np.float32(reward))


class RoundedObservation(Exact):
    def _get_obs(self):
        return super()._get_obs().astype(np.float32)


class RoundedInside(Exact):
    """Nothing that it returns is in single precision."""

    def rewarded(self, reward):
        seen = self._get_obs().astype(np.float32)
        return float(-np.square(seen.astype(np.float64) - 1.0).sum())


def slopes(name):
    """Return the Jacobians of next state, reward and observation by state and action."""
    task = mbrl.make_task(name, threads=1)

    def taken(state, action):
        found = task.advance(state, action)
        return found.next_state, found.reward, found.observation

    found = torch.autograd.functional.jacobian(taken, (STATE, ACTION))
    state = STATE.clone().requires_grad_()
    seen = torch.autograd.grad(task.observe(state)[:, :3].sum(), state)[0]
    return [*(part for pair in found for part in pair), seen]


@pytest.mark.parametrize("entry", [RoundedAction, RoundedReward, RoundedObservation, RoundedInside])
def test_gradients_are_those_of_the_same_in_double_precision(entry, registered):
    wanted = slopes(registered(Exact))
    name = registered(entry)
    with pytest.warns(RuntimeWarning, match=rf"^{name}: its step computes in single precision"):
        found = slopes(name)
    for ours, theirs in zip(found, wanted, strict=True):
        assert float((ours - theirs).abs().max()) < 2e-3 * (0.1 + float(theirs.abs().max()))


class Cheetah(HalfCheetahEnv):
    """In contact, where 2^-9 is far: what is exact must stay so."""

    def step(self, action):
        found = super().step(action)
        return found[0], found[1] + 0.1 * float(np.sum(self.data.qpos**2)), *found[2:]


class CheetahThatSeesLess(Cheetah):
    def _get_obs(self):
        return super()._get_obs().astype(np.float32)


def test_what_is_exact_stays_exact_beside_what_is_rounded(registered):
    exact = mbrl.make_task(registered(Cheetah), threads=1)
    with pytest.warns(RuntimeWarning, match=r"single precision \(observation\)"):
        task = mbrl.make_task(registered(CheetahThatSeesLess), threads=1)
    state = exact.reset(4, torch.Generator().manual_seed(0))
    action = torch.full((4, 6), 0.4, dtype=torch.float64)
    for _ in range(30):
        state = exact.step(state, action).next_state
    found = []
    for each in (exact, task):
        x, u = state.clone().requires_grad_(), action.clone().requires_grad_()
        taken = each.advance(x, u)
        total = taken.next_state.sum() + taken.reward.sum()
        found.append(torch.autograd.grad(total, (x, u), retain_graph=True))
        seen = torch.autograd.grad(taken.observation[:, :8].sum(), u)[0]
        assert float(seen.abs().max()) > 0.1
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours, theirs)


def test_where_nothing_rounded_is_differentiated_nothing_is_said(registered):
    class Formula(RoundedReward):
        def tensor_reward(self, state, action, next_state):
            return -(next_state - 1.0).square().sum(-1)

    class Both(RoundedObservation):
        def tensor_observation(self, state):
            return state

        def tensor_reward(self, state, action, next_state):
            return -(next_state - 1.0).square().sum(-1)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for entry in (Exact, Formula, Both):
            mbrl.make_task(registered(entry), threads=1)


@pytest.mark.parametrize("options", [{"eps": 1e-2}, {"eps": 1e-2, "centered": True}])
def test_the_size_of_differences_may_be_chosen(options, registered):
    name = registered(RoundedAction)
    with pytest.warns(RuntimeWarning, match="single precision"):
        task = mbrl.make_task(name, threads=1)
    action = ACTION.clone().requires_grad_()
    (usual,) = torch.autograd.grad(task.dynamics()(STATE, action)[:, 7:].sum(), action)
    (chosen,) = torch.autograd.grad(task.dynamics(**options)(STATE, action)[:, 7:].sum(), action)
    torch.testing.assert_close(usual, chosen, rtol=1e-3, atol=1e-4)
    assert not torch.equal(usual, chosen)
