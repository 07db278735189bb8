"""A torque-limited pendulum to swing up, and a cost whose quadratic model is written by hand."""

import mujoco
import numpy as np
import torch

from mbrl.physics import Simulator
from mbrl.planning import Problem, SimulatorModel, StageCost
from mbrl.planning.costs import Quadratic

PENDULUM = """
<mujoco><option timestep="0.02" integrator="RK4"/><worldbody><body>
  <joint name="hinge" type="hinge" axis="0 1 0" damping="0.02"/>
  <geom type="capsule" fromto="0 0 0 0 0 0.5" size="0.03" mass="1"/>
</body></worldbody><actuator><motor joint="hinge" ctrlrange="-2 2" ctrllimited="true"/></actuator>
</mujoco>"""


class Upright(StageCost):
    """Angle and velocity to zero, as a sum of squares of (sin q, 1 - cos q, v / 4, u / 30)."""

    def __call__(self, points):
        residual = self.residual(points)
        return 0.5 * residual.square().sum(-1)

    def residual(self, points):
        q, v = points.next_state[:, 0], points.next_state[:, 1]
        return torch.stack([q.sin(), 1 - q.cos(), v / 4, points.action[:, 0] / 30], dim=-1)

    def quadratic(self, points, a, b, model):
        q, rows = points.next_state[:, 0], len(points.state)
        jx = torch.zeros(rows, 4, 2, dtype=torch.float64)
        jx[:, 0, 0], jx[:, 1, 0], jx[:, 2, 1] = q.cos(), q.sin(), 0.25
        ju = torch.zeros(rows, 4, 1, dtype=torch.float64)
        ju[:, 3] = 1 / 30
        r, x, u = self.residual(points)[:, None], jx @ a, jx @ b + ju
        return Quadratic((r @ x)[:, 0], (r @ u)[:, 0], x.mT @ x, u.mT @ x, u.mT @ u)


def pendulum(horizon=80):
    simulator = Simulator(mujoco.MjModel.from_xml_string(PENDULUM), threads=1)
    limit = torch.tensor([2.0], dtype=torch.float64)
    return Problem(SimulatorModel(simulator), Upright(), -limit, limit, horizon)


HANGING = torch.tensor([[np.pi, 0.0], [2.5, 0.5], [-2.0, 0.0]], dtype=torch.float64)
