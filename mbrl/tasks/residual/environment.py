"""An environment made of a model and a cost of residuals."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import gymnasium
import mujoco
import numpy as np
import torch
from gymnasium.envs.mujoco import MujocoEnv
from gymnasium.envs.mujoco.mujoco_env import expand_model_path
from gymnasium.spaces import Box
from gymnasium.utils import EzPickle
from numpy.typing import NDArray
from torch import Tensor

from mbrl.errors import ConfigError, ModelError, one_line
from mbrl.options import completed
from mbrl.physics import Simulator
from mbrl.tasks.residual.cost import ResidualCost
from mbrl.tasks.residual.direct import scalar_joints
from mbrl.tasks.residual.named_model import NamedModel, found_file
from mbrl.tasks.residual.success import Success
from mbrl.types import Array

_WHERE = "task_args"
_OURS = {"self", "model_path", "frame_skip", "observation_space"}
_PASSED = set(inspect.signature(MujocoEnv.__init__).parameters) - _OURS


@dataclass(frozen=True, kw_only=True)
class ResetOptions:
    """Where episodes begin.

    Attributes:
        qpos: position, [nq]; null: that of the keyframe.
        keyframe: name of a keyframe; null: the model's reference pose, at rest.
        joints: positions of hinges and slides by name instead of those: a number, or a range
            [low, high] to draw from.
        position_noise: largest deviation of every degree of freedom [rad or m].
        velocity_noise: largest deviation of every velocity [rad/s or m/s].
    """

    qpos: Sequence[float] | None = None
    keyframe: str | None = None
    joints: Mapping[str, float | tuple[float, float]] = field(default_factory=dict)
    position_noise: float = 0.0
    velocity_noise: float = 0.0


class ResidualEnv(MujocoEnv, EzPickle):
    r"""Any MuJoCo model with a cost of residuals, see :class:`ResidualCost`.

    .. math:: r(x, u, x'; t) = -\ell(x', u; t).

    An agent observes the whole state [qpos, qvel, act], as it is or with angles that can turn round
    as (cos, sin). Episodes never terminate. The cost is a function of what is observed, too: that
    of the state which an observation is of, ``tensor_planning_cost``, where it does not depend on
    the time.

    Args:
        model: path to MJCF: as given, else of that name among our ``assets/``, else among
            Gymnasium's ("hopper.xml").
        cost: the terms of the cost, by name.
        terminal: the terms of a cost of the last state of a planning horizon, which is not part of
            the reward.
        reset: see :class:`ResetOptions`.
        success: ``{terms: ..., last: seconds}``, see :class:`Success`.
        observe: ``state``, or ``trigonometric``: in place of every angle of a hinge without limits
            its cosine and sine.
        frame_skip: physics steps per control step.
        **kwargs: of ``MujocoEnv``.

    Attributes:
        cost: the cost.
        terminal_cost: the terminal cost, or None.
        success: or None.

    Raises:
        ConfigError: naming the key, its value and what is legal.
        ModelError: if the model cannot be loaded or simulated.
    """

    metadata: dict[str, Any] = {
        "render_modes": ["human", "rgb_array", "depth_array", "rgbd_tuple"],
    }
    tensor_reward: Any
    tensor_planning_cost: Any = None

    def __init__(
        self,
        *,
        model: str,
        cost: Mapping[str, Any] | Sequence[Any],
        terminal: Mapping[str, Any] | Sequence[Any] | None = None,
        reset: Mapping[str, Any] | None = None,
        success: Mapping[str, Any] | None = None,
        observe: Literal["state", "trigonometric"] = "state",
        frame_skip: int = 1,
        **kwargs: Any,
    ):
        given: dict[str, Any] = {"terminal": terminal, "reset": reset, "success": success}
        given |= {"observe": observe, "frame_skip": frame_skip}
        EzPickle.__init__(self, model=model, cost=cost, **given, **kwargs)
        if frame_skip < 1:
            raise ConfigError(f"{_WHERE}.frame_skip must be a positive integer, got {frame_skip!r}")
        path = _model_path(model)
        try:
            super().__init__(path, frame_skip, None, **kwargs)
        except ValueError as error:
            raise ModelError(
                f"{_WHERE}.model: {model} does not compile: {one_line(error)}"
            ) from error
        self.metadata = {**self.metadata, "render_fps": round(1 / self.dt)}
        simulator = Simulator(self.model, frame_skip=frame_skip, threads=1)
        self._turning = _turning(self.model) if observe == "trigonometric" else []
        size = simulator.spec.nx + len(self._turning)
        self.observation_space = Box(-np.inf, np.inf, (size,), dtype=np.float64)
        self._spec = simulator.spec
        self.cost = ResidualCost(simulator, cost, where=f"{_WHERE}.cost")
        self.terminal_cost = (
            ResidualCost(simulator, terminal, where=f"{_WHERE}.terminal") if terminal else None
        )
        self.success = _success(simulator, success)
        self.tensor_reward = self._timed_reward if self.cost.uses_time else self._plain_reward
        if not self.cost.uses_time:
            self.tensor_planning_cost = self._observed_cost
        options = completed(ResetOptions, reset or {}, f"{_WHERE}.reset")
        self._reset = ResetOptions(**options)
        named = NamedModel(simulator)
        self._start = _start(named, self._reset)
        self._drawn = [
            (int(self.model.jnt_qposadr[scalar_joints(named, name, _WHERE)[0]]), value)
            for name, value in self._reset.joints.items()
            if isinstance(value, tuple)
        ]

    def use(self, simulator: Simulator) -> None:
        """Let another simulator of this model evaluate costs and success, with its threads."""
        self.cost = self.cost.on(simulator)
        if self.terminal_cost is not None:
            self.terminal_cost = self.terminal_cost.on(simulator)
        if self.success is not None:
            self.success = self.success.on(simulator)

    def tensor_observation(self, state: Tensor) -> Tensor:
        """[B, nx] -> [B, n_obs]."""
        if not self._turning:
            return state
        columns: list[Tensor] = []
        for i, column in enumerate(state.unbind(-1)):
            columns += [column.cos(), column.sin()] if i in self._turning else [column]
        return torch.stack(columns, dim=-1)

    def tensor_terminated(self, next_state: Tensor) -> Tensor:
        """Never: [B, nx] -> [B] bool."""
        return torch.zeros(len(next_state), dtype=torch.bool)

    def reset_model(self) -> NDArray[np.float64]:
        """Draw a state around the pose that an episode begins with."""
        state, spec, options = self._start.copy(), self._spec, self._reset
        for address, (low, high) in self._drawn:
            state[address] = self.np_random.uniform(low, high)
        noise = np.zeros(spec.ndx)
        noise[: spec.nv] = options.position_noise
        noise[spec.nv : 2 * spec.nv] = options.velocity_noise
        state = spec.retract(state, noise * self.np_random.uniform(-1, 1, spec.ndx))
        qpos, qvel, act = spec.split(state)
        self.data.act[:] = act
        self.set_state(qpos, qvel)
        return self._get_obs()

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Apply controls for one control step."""
        t = round(self.data.time / self.dt)
        action = np.asarray(action, dtype=np.float64)
        self.do_simulation(action, self.frame_skip)
        if self.render_mode == "human":
            self.render()
        with torch.no_grad():
            cost = self.cost(self._state(), torch.from_numpy(action)[None], t)
        return self._get_obs(), -float(cost), False, False, {}

    def _get_obs(self) -> NDArray[np.float64]:
        return self.tensor_observation(self._state())[0].numpy()

    def _state(self) -> Tensor:
        data = self.data
        return torch.from_numpy(np.concatenate([data.qpos, data.qvel, data.act]))[None]

    def _set_action_space(self) -> Box:
        """Unlimited actuators have no bounds; MuJoCo's range of them is [0, 0]."""
        limited = self.model.actuator_ctrllimited.astype(bool)[:, None]
        ranges = np.where(limited, self.model.actuator_ctrlrange, [-np.inf, np.inf])
        self.action_space = Box(*ranges.astype(np.float32).T, dtype=np.float32)
        return self.action_space

    def _observed_cost(
        self, observation: Tensor, action: Tensor, next_observation: Tensor
    ) -> Tensor:
        """[N, n_obs], [N, nu], [N, n_obs] -> [N]."""
        state = self._state_of(next_observation.to("cpu", torch.float64))
        return self.cost(state, action.to("cpu", torch.float64)).to(observation)

    def _state_of(self, observation: Tensor) -> Tensor:
        """Return states [N, nx] of observations [N, n_obs], angles between -pi and pi."""
        columns: list[Tensor] = []
        entries = iter(observation.unbind(-1))
        for entry in entries:
            if len(columns) in self._turning:
                entry = torch.atan2(next(entries), entry)
            columns.append(entry)
        return torch.stack(columns, dim=-1)

    def _plain_reward(self, state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
        """[B, nx], [B, nu], [B, nx] -> [B]."""
        return -self.cost(next_state, action)

    def _timed_reward(self, state: Tensor, action: Tensor, next_state: Tensor, t: int) -> Tensor:
        """[B, nx], [B, nu], [B, nx], step -> [B]."""
        return -self.cost(next_state, action, t)


def register_residual() -> None:
    """Register it with Gymnasium, once."""
    if "mbrl/Residual-v0" not in gymnasium.registry:
        gymnasium.register("mbrl/Residual-v0", entry_point=_made, max_episode_steps=1000)


def _made(**kwargs: Any) -> ResidualEnv:
    """Return an environment whose arguments are checked like a configuration."""
    passed = {name: kwargs.pop(name) for name in _PASSED & kwargs.keys()}
    return ResidualEnv(**completed(ResidualEnv, kwargs, _WHERE), **passed)


def _model_path(model: str) -> str:
    """Return the path of a model that is given, ours or Gymnasium's."""
    found = found_file(model)
    if found.is_file():
        return str(found.resolve())
    try:
        return str(expand_model_path(model))
    except OSError as error:
        raise ConfigError(f"{_WHERE}.model: no such MJCF file: {model}") from error


def _success(simulator: Simulator, declared: Mapping[str, Any] | None) -> Success | None:
    if not declared:
        return None
    options = completed(Success, declared, f"{_WHERE}.success")
    return Success(simulator, f"{_WHERE}.success", **options)


def _turning(model: mujoco.MjModel) -> list[int]:
    """Return where in a state the angles of hinges without limits are."""
    hinges = model.jnt_type == mujoco.mjtJoint.mjJNT_HINGE
    free = hinges & (model.jnt_limited == 0)
    columns: list[int] = model.jnt_qposadr[free].tolist()
    return columns


def _start(named: NamedModel, options: ResetOptions) -> Array:
    """Return the state (nx) that episodes begin around."""
    where, spec = f"{_WHERE}.reset", named.spec
    for name in ("position_noise", "velocity_noise"):
        if getattr(options, name) < 0:
            raise ConfigError(f"{where}.{name} must be 0 or more, got {getattr(options, name)}")
    state = named.state(options.keyframe, f"{where}.keyframe")
    if options.qpos is not None:
        if len(options.qpos) != spec.nq:
            raise ConfigError(f"{where}.qpos must have {spec.nq} numbers, got {len(options.qpos)}")
        state[: spec.nq] = options.qpos
    for name, value in options.joints.items():
        (joint,) = scalar_joints(named, name, f"{where}.joints")
        if isinstance(value, tuple):
            if not value[0] <= value[1]:
                raise ConfigError(f"{where}.joints.{name} must be a range [low, high], got {value}")
            continue
        state[named.model.jnt_qposadr[joint]] = value
    mujoco.mj_normalizeQuat(named.model, state[: spec.nq])
    return state
