"""Models with edited numbers, made by hand: the oracle of everything about parameters."""

import copy

import mujoco
import numpy as np

from tests import models
from tests.models import reference

# Per model: names of parameters, each beside the numbers (field, index) that it must mean.
CASES = {
    "HalfCheetah": {
        "body_mass[torso]": ("body_mass", 1),
        "body_inertia[bfoot,1]": ("body_inertia", (4, 1)),
        "dof_damping[bthigh]": ("dof_damping", 3),
        "dof_armature[ffoot]": ("dof_armature", 8),
        "jnt_stiffness[bfoot]": ("jnt_stiffness", 5),
        "actuator_gear[bthigh,0]": ("actuator_gear", (0, 0)),
        "actuator_gainprm[1,0]": ("actuator_gainprm", (1, 0)),
        "opt.gravity[2]": ("opt.gravity", 2),
    },
    "mixed": {
        "body_mass[3]": ("body_mass", 3),
        "body_ipos[2,1]": ("body_ipos", (2, 1)),
        "dof_damping[2]": ("dof_damping", 2),
        "dof_armature[slide]": ("dof_armature", 4),
        "jnt_stiffness[ball]": ("jnt_stiffness", 1),
        "actuator_gear[2,1]": ("actuator_gear", (2, 1)),
        "actuator_gainprm[3,0]": ("actuator_gainprm", (3, 0)),
        "actuator_dynprm[1,0]": ("actuator_dynprm", (1, 0)),
        "actuator_biasprm[3,2]": ("actuator_biasprm", (3, 2)),
    },
    "tendon": {
        "tendon_stiffness[cord]": ("tendon_stiffness", 1),
        "tendon_damping[pair]": ("tendon_damping", 0),
        "tendon_armature[pair]": ("tendon_armature", 0),
        "dof_frictionloss[a]": ("dof_frictionloss", 0),
    },
    "fluid": {
        "opt.density": ("opt.density", ()),
        "opt.viscosity": ("opt.viscosity", ()),
        "body_inertia[1,2]": ("body_inertia", (1, 2)),
    },
    "slide_pyramidal": {"geom_friction[block,0]": ("geom_friction", (1, 0))},
    "slide_elliptic": {
        "geom_friction[block,0]": ("geom_friction", (1, 0)),
        "body_mass[block]": ("body_mass", 1),
        "geom_solref[floor,1]": ("geom_solref", (0, 1)),
    },
}

# A block that slides and turns flat on the floor, away from where it would stick or lift.
SLIDE = """
<mujoco>
  <option timestep="0.004" cone="{cone}"/>
  <worldbody>
    <geom name="floor" type="plane" size="5 5 1" friction="0.15 0.01 0.001"/>
    <body name="block" pos="0 0 0.1">
      <joint type="slide" axis="1 0 0"/>
      <joint type="slide" axis="0 1 0"/>
      <joint type="slide" axis="0 0 1"/>
      <joint type="hinge" axis="0 0 1"/>
      <geom name="block" type="box" size="0.15 0.12 0.1" friction="0.3 0.01 0.001"/>
    </body>
  </worldbody>
</mujoco>
"""


def model_of(name):
    if name.startswith("slide"):
        return mujoco.MjModel.from_xml_string(SLIDE.format(cone=name.partition("_")[2]))
    model = models.stock(name) if name in models.STOCK else models.own(name)
    if name == "mixed":
        model.dof_armature[4] = 0.3  # differences of both sides need room
        mujoco.mj_setConst(model, mujoco.MjData(model))
    return model


def samples(name, model, n, frame_skip, seed=0):
    """States and controls where the step is smooth in its parameters."""
    if not name.startswith("slide"):
        length = 60 // frame_skip
        return reference.samples(model, n, seed=seed, length=length, frame_skip=frame_skip)
    rng = np.random.default_rng(seed)
    angle = rng.uniform(-np.pi, np.pi, n)
    states = np.zeros((n, 8))
    states[:, 2] = -0.002  # pressed into the floor, so that it stays there for some steps
    states[:, 4:6] = 0.6 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    states[:, 7] = rng.uniform(-0.5, 0.5, n)
    return states, np.zeros((n, 0))


def read(model, field, index):
    holder, name = (model.opt, field[4:]) if field.startswith("opt.") else (model, field)
    return float(np.asarray(getattr(holder, name))[index])


def edited(model, changes):
    """A copy with numbers changed: (field, index) -> value; derived constants follow."""
    model = copy.copy(model)
    for (field, index), value in changes.items():
        holder, name = (model.opt, field[4:]) if field.startswith("opt.") else (model, field)
        if index == ():
            setattr(holder, name, value)
        else:
            getattr(holder, name)[index] = value
    mujoco.mj_setConst(model, mujoco.MjData(model))
    return model


def theta(model, x, u, numbers, frame_skip, relative=1e-5):
    """Centred differences (ndx, P) of the serial, converged step of edited models."""
    columns = []
    for field, index in numbers:
        value = read(model, field, index)
        h = relative * (abs(value) or 1.0)
        ends = []
        for changed in (value - h, value + h):
            other = reference.converged(edited(model, {(field, index): changed}))
            ends.append(reference.step(other, mujoco.MjData(other), x, u, frame_skip))
        columns.append(reference.difference(model, *ends) / (2.0 * h))
    return np.stack(columns, axis=1)
