"""Environments as their users step them: oracles that know nothing of the package under test."""

import mujoco
import numpy as np
import torch

from tests.models import reference


def place(env, state, *, t=0, **attributes):
    """Put a bare environment into a state [qpos, qvel, act] before its step t."""
    model, data = env.model, env.data
    mujoco.mj_resetData(model, data)
    for name, value in attributes.items():
        setattr(env, name, value)
    qpos, qvel, act = reference.split(model, np.asarray(state))
    data.act[:] = act
    data.time = t * env.dt
    env.set_state(qpos, qvel)


def stepped(env, state, action, *, t=0, **attributes):
    """(next state, reward, terminated, observation) of one step from there."""
    place(env, state, t=t, **attributes)
    observation, reward, terminated, _, _ = env.step(np.asarray(action).astype(np.float64))
    return reference.read(env.data), float(reward), bool(terminated), np.array(observation)


def along(function, model, state, dx, h=1e-6):
    """Centred difference of ``function(state)`` along mj_integratePos."""
    ahead, behind = (reference.retract(model, state, sign * h * dx) for sign in (1, -1))
    return (np.asarray(function(ahead)) - np.asarray(function(behind))) / (2 * h)


def ambient(model, state, dx):
    """The tangent dx at a state, as a direction in the space of [qpos, qvel, act]."""
    return along(lambda x: x, model, state, dx)


def points(task, batch, *, seed=0, steps=5, share=0.9):
    """States met on the way, actions clear of their bounds, and contexts."""
    generator = torch.Generator().manual_seed(seed)
    state, context = task.start(batch, generator)
    low, high = task.action_low.clamp(min=-1), task.action_high.clamp(max=1)
    middle, half = (low + high) / 2, (high - low) / 2
    for t in range(steps + 1):
        size = (batch, task.action_size)
        noise = 2 * torch.rand(size, generator=generator, dtype=torch.float64) - 1
        action = middle + share * half * noise
        if t < steps:
            state = task.step(state, action, t=t, context=context).next_state
    return state, action, context
