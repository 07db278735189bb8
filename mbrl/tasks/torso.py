"""The half-cheetah on which dynamics are learned: one physics step, and where it is."""

from __future__ import annotations

from typing import Any

import gymnasium
import mujoco
import numpy as np
import torch
from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv
from gymnasium.spaces import Box
from gymnasium.utils import EzPickle
from numpy.typing import NDArray
from torch import Tensor

from mbrl.errors import ArgumentError, suggestion
from mbrl.tasks.kinematics import PointKinematics

_PLACES = ("centre_of_mass", "frame")
_FRONT_THIGH, _FRONT_SHIN, _FRONT_FOOT, _FORWARD = 5, 6, 7, 17  # columns of an observation
_HIGHEST_THIGH = 0.2  # rad


class HalfCheetahTorsoEnv(HalfCheetahEnv):
    r"""The half-cheetah of Berkeley's CS 294-112, fall 2017, homework 4.

    Physics, reset and reward are those of HalfCheetah-v5 at one physics step of 0.01 s per action,

    .. math:: r = \frac{q'_0 - q_0}{\Delta t} - 0.1 |u|^2,

    and an agent observes the 20 numbers :math:`o = (q_{1..8}, v_{0..8}, p)` with p the position of
    the torso [m]. Episodes never terminate. A model of the observations that knows p can be asked
    how far a plan runs: :meth:`tensor_planning_cost`, what a plan of the homework minimises.

    p is the centre of mass of the torso and all that hangs on it, the ``get_body_com("torso")`` of
    the Gym 0.9.1 and mujoco-py 0.5.7 that the course required. Later versions return the origin of
    the torso's frame, which repeats :math:`q_0, q_1`: ``torso: frame``. Over an episode both go
    equally far; from step to step they do not, for swinging legs move the frame the other way. p is
    computed from q, and so a function of the state: what those versions observed after a step
    lagged one physics step behind q.

    Args:
        torso: what p is, ``centre_of_mass`` or ``frame``.
        leg_penalty: P of :meth:`tensor_planning_cost`.
        effort: w of the same; the reward's is 0.1.
        xml_file: another model with these joints, and a root body called ``torso``.
        frame_skip: physics steps per action.
        **kwargs: of ``HalfCheetahEnv``; its ``exclude_current_positions_from_observation`` means
            nothing here.

    Raises:
        ArgumentError: if ``torso`` is something else, or a weight is negative.
    """

    def __init__(
        self,
        *,
        torso: str = "centre_of_mass",
        leg_penalty: float = 10.0,
        effort: float = 0.0,
        xml_file: str = "half_cheetah.xml",
        frame_skip: int = 1,
        **kwargs: Any,
    ):
        if torso not in _PLACES:
            raise ArgumentError(f"torso: unknown value {torso!r}; {suggestion(torso, _PLACES)}")
        for name, weight in {"leg_penalty": leg_penalty, "effort": effort}.items():
            if not 0 <= weight < np.inf:
                raise ArgumentError(f"{name} must be finite and not negative, got {weight}")
        super().__init__(xml_file, frame_skip, **kwargs)
        ours = {"torso": torso, "leg_penalty": leg_penalty, "effort": effort}
        EzPickle.__init__(self, **ours, xml_file=xml_file, frame_skip=frame_skip, **kwargs)
        self._leg_penalty, self._effort = leg_penalty, effort
        model = self.model
        self._torso = int(model.body("torso").id)
        self._is_frame = torso == "frame"
        parts = np.flatnonzero(model.body_rootid == self._torso)
        points = [(int(part), model.body_ipos[part]) for part in parts]
        masses = torch.from_numpy(model.body_mass[parts])
        if self._is_frame:
            points, masses = [(self._torso, np.zeros(3))], torch.ones(1, dtype=torch.float64)
        self._kinematics = PointKinematics(model, points)
        self._shares = (masses / masses.sum())[:, None]
        self._positions = model.nq
        size = model.nq - 1 + model.nv + 3
        self.observation_space = Box(-np.inf, np.inf, (size,), dtype=np.float64)
        self.observation_structure = {"skipped_qpos": 1, "qpos": model.nq - 1, "qvel": model.nv}

    def tensor_observation(self, state: Tensor) -> Tensor:
        """[B, 18] -> [B, 20]."""
        points = self._kinematics(state[..., : self._positions])
        return torch.cat([state[..., 1:], (points * self._shares).sum(-2)], dim=-1)

    def tensor_planning_cost(
        self, observation: Tensor, action: Tensor, next_observation: Tensor
    ) -> Tensor:
        r"""Cost of a step of a plan: [..., 20], [..., 6], [..., 20] -> [...].

        .. math:: c = P \big( [o_5 \ge 0.2] + [o_6 \ge 0] + [o_7 \ge 0] \big) + w |u|^2
                      - \frac{o'_{17} - o_{17}}{\Delta t}

        The homework has P = 10 and w = 0: a front leg that swings far back is what tips the cheetah
        over, and costs; the control is free. It is not the negative reward. Plans that look further
        ahead do without most of P, and P = 0, w = 0.1 is the reward.
        """
        back = (
            (observation[..., _FRONT_THIGH] >= _HIGHEST_THIGH).to(observation.dtype)
            + (observation[..., _FRONT_SHIN] >= 0)
            + (observation[..., _FRONT_FOOT] >= 0)
        )
        advance = next_observation[..., _FORWARD] - observation[..., _FORWARD]
        cost = self._leg_penalty * back - advance / self.dt
        return cost + self._effort * action.square().sum(-1) if self._effort else cost

    def _get_obs(self) -> NDArray[np.float64]:
        data = self.data
        mujoco.mj_kinematics(self.model, data)  # after a step it stands one physics step behind
        mujoco.mj_comPos(self.model, data)
        torso = data.xpos[self._torso] if self._is_frame else data.subtree_com[self._torso]
        return np.concatenate([data.qpos[1:], data.qvel, torso])


def register_torso() -> None:
    """Register it with Gymnasium, once."""
    name = "mbrl/HalfCheetahTorso-v0"
    if name not in gymnasium.registry:
        gymnasium.register(name, entry_point=HalfCheetahTorsoEnv, max_episode_steps=1000)
