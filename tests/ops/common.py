"""One model with quaternions and activations, its dynamics op, and points to try it at."""

import numpy as np
import torch

from mbrl.ops import MujocoDynamics
from mbrl.physics import Simulator
from tests import models
from tests.models import reference

MODEL = models.own("mixed")  # ball, free, hinge, slide, two activations
SKIP = 2
NX, NDX, NU = 28, 26, 4
EXACT = {"rtol": 0.0, "atol": 1e-12}


def dynamics_of(model=MODEL, frame_skip=SKIP, **keywords):
    keywords.setdefault("centered", True)
    return MujocoDynamics(Simulator(model, frame_skip=frame_skip, threads=1), **keywords)


DYNAMICS = dynamics_of()


def points(*batch, seed=0):
    n = int(np.prod(batch))
    states, ctrls = reference.samples(MODEL, max(n, 1), seed=seed)
    return (
        torch.from_numpy(states[:n].reshape(*batch, NX)),
        torch.from_numpy(ctrls[:n].reshape(*batch, NU)),
    )


def loss_of(following):
    """A smooth function of all coordinates, with another gradient in each."""
    weight = torch.linspace(-1.0, 2.0, NX, dtype=following.dtype)
    return (weight * following + 0.1 * torch.sin(3.0 * following)).sum()


def following(z):
    """The op on state and action joined: [..., nx + nu] -> [..., nx]."""
    return DYNAMICS(z[..., :NX], z[..., NX:])
