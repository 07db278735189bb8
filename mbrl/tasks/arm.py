"""An arm of three hinges: what the environments that reach and track with it share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import torch
from gymnasium.envs.mujoco import MujocoEnv
from gymnasium.spaces import Box
from numpy.typing import NDArray
from torch import Tensor

from mbrl.resources import resource_path
from mbrl.tasks.formulas import Formula
from mbrl.tasks.kinematics import PointKinematics

_FRAME_SKIP = 2
_BENT = np.array([0.0, 0.5, -1.2])  # yaw, pitch, elbow: from here the fingertip can move every way
# Below this error, in metres, the cost turns from a cone into a parabola.
_ROUNDING = 0.01


class ArmEnv(MujocoEnv):
    r"""An arm whose fingertip f(q) is to be where a reference g is.

    .. math:: r = -\left(\sqrt{|f(q') - g|^2 + s^2} - s\right) - w |u|^2, \qquad s = 1\,\text{cm}.

    A subclass draws an attribute ``context`` at reset and has ``tensor_reward`` and
    ``tensor_observation``, made of the pieces here; ``step`` returns exactly what they say. The
    fingertip comes from the state by torch arithmetic, never from ``site_xpos``, which after
    ``mj_step`` lags one physics step behind. Episodes never terminate.

    Args:
        observation_size: width of an observation.
        reset_noise_scale: largest deviation of angles [rad] and velocities [rad/s] at reset.
        control_cost_weight: w.
        xml_file: another model with these joints, sites and bodies.
        **kwargs: of ``MujocoEnv``.

    Attributes:
        context: what reset drew for the episode, float64.
    """

    metadata: dict[str, Any] = {
        "render_modes": ["human", "rgb_array", "depth_array", "rgbd_tuple"],
        "render_fps": 25,
    }
    context: NDArray[np.float64]
    tensor_reward: Any
    tensor_observation: Any

    def __init__(
        self,
        observation_size: int,
        *,
        reset_noise_scale: float = 0.1,
        control_cost_weight: float = 0.003,
        xml_file: str | Path | None = None,
        **kwargs: Any,
    ):
        kwargs.setdefault("default_camera_config", {"distance": 1.6, "lookat": [0.0, 0.0, 0.5]})
        super().__init__(
            str(xml_file or resource_path("assets", "arm.xml")),
            _FRAME_SKIP,
            Box(-np.inf, np.inf, (observation_size,), dtype=np.float64),
            **kwargs,
        )
        self._noise, self._control_cost_weight = reset_noise_scale, control_cost_weight
        tip = self.model.site("fingertip")
        self._kinematics = PointKinematics(self.model, [(int(tip.bodyid[0]), tip.pos.copy())])
        name = type(self).__name__
        self._reward = Formula(self.tensor_reward, name)
        self._observation = Formula(self.tensor_observation, name)

    def tip(self, state: Tensor) -> Tensor:
        """Where the fingertip is: [B, 6] -> [B, 3]."""
        return self._kinematics(state[..., :3])[..., 0, :]

    def joints(self, state: Tensor) -> Tensor:
        """Sines and cosines of the angles, and their velocities: [B, 6] -> [B, 9]."""
        angles, velocities = state[..., :3], state[..., 3:]
        return torch.cat([angles.sin(), angles.cos(), velocities], dim=-1)

    def reward(self, action: Tensor, next_state: Tensor, reference: Tensor) -> Tensor:
        """Rounded distance of the fingertip and control cost, negated: [B, ...] -> [B]."""
        squared = (self.tip(next_state) - reference).square().sum(-1)
        distance = (squared + _ROUNDING**2).sqrt() - _ROUNDING
        return -distance - self._control_cost_weight * action.square().sum(-1)

    def reset_model(self) -> NDArray[np.float64]:
        """Draw the context, and a state near the bent pose."""
        self.context = self._drawn_context()
        position, velocity = self.np_random.uniform(-self._noise, self._noise, (2, 3))
        self._show()
        self.set_state(_BENT + position, velocity)
        return self._get_obs()

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Apply torques, each as a share of what its motor can give."""
        t, before = self._index(), self.state_vector()
        self.do_simulation(action, self.frame_skip)
        self._show()
        mujoco.mj_kinematics(self.model, self.data)  # what is drawn, like any reader of xpos
        if self.render_mode == "human":
            self.render()
        rows = (before, np.asarray(action, dtype=np.float64), self.state_vector())
        reward = self._reward(*map(_row, rows), t=t, context=_row(self.context))
        distance = np.linalg.norm(self.data.site("fingertip").xpos - self._reference())
        return self._get_obs(), float(reward), False, False, {"distance": float(distance)}

    def _get_obs(self) -> NDArray[np.float64]:
        seen = self._observation(
            _row(self.state_vector()), t=self._index(), context=_row(self.context)
        )
        return seen[0].numpy()

    def _index(self) -> int:
        """Steps taken in this episode; the clock of a state that was set counts as well."""
        return round(self.data.time / self.dt)

    def _show(self) -> None:
        self.data.mocap_pos[0] = self._reference()

    def _drawn_context(self) -> NDArray[np.float64]:
        """Draw what is constant in an episode."""
        raise NotImplementedError

    def _reference(self) -> NDArray[np.float64]:
        """Where the fingertip should be now, (3)."""
        raise NotImplementedError


def _row(values: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(values)[None]
