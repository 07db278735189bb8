"""What users set in MjData beside the controls: applied forces, mocap poses, userdata ..."""

from __future__ import annotations

import mujoco
import numpy as np
from numpy.typing import NDArray

from mbrl.types import Array

_State = mujoco.mjtState
_BODY, _SITE = int(mujoco.mjtObj.mjOBJ_BODY), int(mujoco.mjtObj.mjOBJ_SITE)
_THROUGH_SITE = int(mujoco.mjtWrap.mjWRAP_SITE)
_AROUND = [int(mujoco.mjtWrap.mjWRAP_SPHERE), int(mujoco.mjtWrap.mjWRAP_CYLINDER)]
_AT_BODY = int(mujoco.mjtTrn.mjTRN_BODY)
_AT_SITES = [int(mujoco.mjtTrn.mjTRN_SITE), int(mujoco.mjtTrn.mjTRN_SLIDERCRANK)]
_INPUTS = int(_State.mjSTATE_USER) & ~int(_State.mjSTATE_CTRL)
_FORCES = int(_State.mjSTATE_QFRC_APPLIED | _State.mjSTATE_XFRC_APPLIED | _State.mjSTATE_EQ_ACTIVE)


def read_inputs(model: mujoco.MjModel, data: mujoco.MjData) -> Array:
    """Return the inputs of a simulation as a vector, (n)."""
    values = np.empty(mujoco.mj_stateSize(model, _INPUTS))
    if len(values):
        mujoco.mj_getState(model, data, values, _INPUTS)
    return values


def write_inputs(model: mujoco.MjModel, data: mujoco.MjData, values: Array) -> None:
    """Set the inputs to what :func:`read_inputs` returned."""
    if len(values):
        mujoco.mj_setState(model, data, values, _INPUTS)


def acting_inputs(model: mujoco.MjModel) -> NDArray[np.bool_]:
    """Return which inputs physics depends on, (n): not a mark that is only looked at."""
    poses = np.ones(model.nmocap, dtype=bool)
    for body in np.flatnonzero(model.body_mocapid >= 0):
        poses[model.body_mocapid[body]] = _acts(model, int(body))
    # In the order of the components of MuJoCo's state.
    return np.concatenate(
        [
            np.ones(mujoco.mj_stateSize(model, _FORCES), dtype=bool),
            np.repeat(poses, 3),
            np.repeat(poses, 4),
            np.full(model.nuserdata, model.nplugin > 0),
        ]
    )


def _acts(model: mujoco.MjModel, body: int) -> bool:
    """Whether anything may collide with a mocap body, hang on it or be driven by it."""
    bodies = np.flatnonzero(model.body_rootid == body)
    geoms = np.flatnonzero(np.isin(model.geom_bodyid, bodies))
    sites = np.flatnonzero(np.isin(model.site_bodyid, bodies))
    around = np.isin(model.wrap_type, _AROUND)
    at_sites = np.isin(model.actuator_trntype, _AT_SITES)
    ends = np.concatenate([model.eq_obj1id, model.eq_obj2id])
    kinds = np.concatenate([model.eq_objtype, model.eq_objtype])
    return bool(
        model.nflex
        or model.nplugin
        or model.body_dofnum[bodies].any()
        or (model.geom_contype[geoms] | model.geom_conaffinity[geoms]).any()
        or np.isin(np.concatenate([model.pair_geom1, model.pair_geom2]), geoms).any()
        or np.isin(ends[kinds == _BODY], bodies).any()
        or np.isin(ends[kinds == _SITE], sites).any()
        or np.isin(model.wrap_objid[model.wrap_type == _THROUGH_SITE], sites).any()
        or np.isin(model.wrap_objid[around], geoms).any()
        or np.isin(model.wrap_prm[around], sites).any()
        or np.isin(model.actuator_trnid[at_sites], sites).any()
        or np.isin(model.actuator_trnid[model.actuator_trntype == _AT_BODY], bodies).any()
    )
