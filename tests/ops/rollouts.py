"""One rollout op, and arguments to try it at."""

import numpy as np
import torch

from mbrl.ops import MujocoRollout
from mbrl.physics import Simulator
from tests.models import reference
from tests.ops.common import MODEL, SKIP

STEPS, BATCH = 6, 3
SIMULATOR = Simulator(MODEL, frame_skip=SKIP, threads=1)
ROLLOUT = MujocoRollout(SIMULATOR)
NAMES = ("state", "actions", "gains", "reference")


def problem(simulator=SIMULATOR, *, steps=STEPS, batch=BATCH, seed=0):
    """State, actions, gains and a reference beside the open-loop rollout, as leaves."""
    model, spec = simulator.model, simulator.spec
    rng = np.random.default_rng(seed)
    state, _ = reference.samples(model, batch, seed=seed)
    limited = model.actuator_ctrllimited
    low, high = np.where(limited, model.actuator_ctrlrange.T, [[-1.0], [1.0]])
    shape = (steps, batch, spec.nu)
    actions = (low + high) / 2 + 0.3 * (high - low) * rng.uniform(-1.0, 1.0, shape)
    gains = 0.02 * rng.standard_normal((*shape, spec.ndx))
    nominal = simulator.rollout(state, actions)[:-1]
    beside = spec.retract(nominal, 0.3 * rng.standard_normal((steps, batch, spec.ndx)))
    arrays = state, actions, gains, beside
    return tuple(torch.from_numpy(v.copy()).requires_grad_() for v in arrays)


def loss_of(states, actions):
    """A smooth function of all numbers, with another gradient in each."""
    weights = torch.linspace(-1.0, 2.0, states.numel(), dtype=states.dtype).reshape(states.shape)
    return (weights * states + 0.1 * torch.sin(3.0 * states)).sum() + torch.cos(2 * actions).sum()
