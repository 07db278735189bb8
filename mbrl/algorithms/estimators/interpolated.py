"""Between the pathwise and the score-function gradient, by how far the noise has shrunk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from mbrl.algorithms.estimators.estimator import Estimate, Estimator, Problem, Subject
from mbrl.algorithms.estimators.pathwise import pathwise_loss
from mbrl.algorithms.estimators.score_function import Baseline, Scores, gaussian_policies
from mbrl.errors import ArgumentError
from mbrl.nn import GaussianPolicy
from mbrl.types import Draw


class Interpolated(Estimator):
    r"""A convex combination of both, of the same rollouts, that follows the noise.

    .. math:: \hat g = (1 - m) \, \hat g_{pathwise} + m \, \hat g_{score}, \qquad
              m = \mathrm{clip}\left(m_{min} + (1 - m_{min}) \tfrac{1}{2} \, \overline{
              \frac{\sigma - \sigma_{min}}{\sigma_0 - \sigma_{min}}}, 0, 1\right)

    with sigma the deviations of the policies in units of half the control range, sigma_0 those at
    the start of the run: half and half at first, more pathwise as the noise shrinks. With
    ``scope: global`` m is one number, the bar a mean over steps, actuators and policies. With
    ``scope: per_step`` every actuator and step has its own m and no mean is taken: what reaches the
    parameters through that entry of that action is mixed, while what flows back through the states
    stays whole.

    Bias: none where both parts have none, in either scope and in closed loop, because m depends on
    the parameters alone, and given o_t both parts estimate the same contribution of each entry of
    z_t. (Weighing whole rewards by m, as the source does, mixes parts that are not equal.)

    Source: methods "IR" and "SIR" of Model-Based-RL.

    Args:
        subject: what is trained.
        scope: see above.
        min_share: m_min.
        min_sd: sigma_min, in units of half the control range.
        baseline: see :class:`ScoreFunction`.
        standardize: see :class:`ScoreFunction`; its bias enters with the share m.

    Raises:
        ArgumentError: if a number is out of its range, a policy's deviations depend on what it
            observes, or see :class:`ScoreFunction`.
    """

    def __init__(
        self,
        subject: Subject,
        *,
        scope: Literal["global", "per_step"] = "global",
        min_share: float = 0.0,
        min_sd: float = 1e-4,
        baseline: Baseline = "leave_one_out",
        standardize: bool = False,
    ):
        super().__init__(subject)
        if not 0 <= min_share <= 1:
            raise ArgumentError(
                f"algorithm.estimator.min_share must lie in [0, 1], got {min_share}"
            )
        self._scores = Scores(subject, baseline, standardize)
        self._policies = gaussian_policies(subject)
        self._scope, self._min_share, self._min_sd = scope, min_share, min_sd
        self._initial_sd = self._deviations()
        smallest = min(float(sd.min()) for sd in self._initial_sd.values())
        if not 0 <= min_sd < smallest:
            raise ArgumentError(
                f"algorithm.estimator.min_sd must lie in [0, {smallest:g}), below all deviations "
                f"at the start, got {min_sd}"
            )

    def estimate(self, problem: Problem) -> Estimate:
        """Roll out once, differentiate both, mix."""
        objective, draws = problem.objective, list[Draw]()
        shares = self._shares()

        def score_factor(policy: Any, t: int) -> Tensor | float:
            return shares[policy][t] * objective.gain(policy, t)

        def pathwise_gain(policy: Any, t: int) -> Tensor | float:
            share = shares[policy][t] if policy in shares else 0.0
            return (1 - share) * objective.gain(policy, t)

        trajectory = problem.unroll(self._subject.graph, gain=pathwise_gain, draws=draws)
        pathwise = pathwise_loss(self._subject, problem, trajectory)
        score = self._scores.loss(problem, trajectory, draws, factor=score_factor)
        mean = float(torch.stack([share.mean() for share in shares.values()]).mean())
        return self._result(problem, trajectory, pathwise + score, {"score_share": mean})

    def state_dict(self) -> dict[str, Any]:
        """Return sigma_0."""
        return {"initial_sd": dict(self._initial_sd)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._initial_sd = {name: state["initial_sd"][name].clone() for name in self._policies}

    def _deviations(self) -> dict[str, Tensor]:
        """Return sigma of all steps, [H, nu], by node."""
        return {name: self._sigma(name, policy) for name, policy in self._policies.items()}

    @torch.no_grad()
    def _sigma(self, name: str, policy: GaussianPolicy) -> Tensor:
        rows = []
        for t in range(self._subject.horizon):
            sd = policy.deviation_at(t)
            if sd is None:
                raise ArgumentError(
                    f"graph.nodes.{name}: an interpolated estimator needs deviations that depend "
                    "on no observation; legal: deviation: constant or per_step, kind: open_loop"
                )
            rows.append(sd / policy.squash.unit)
        return torch.stack(rows)

    def _shares(self) -> dict[Any, Tensor]:
        """Return m, [H, nu], by policy."""
        now = self._deviations()
        left = {
            name: (now[name] - self._min_sd) / (first - self._min_sd)
            for name, first in self._initial_sd.items()
        }
        if self._scope == "global":
            mean = torch.cat([share.flatten() for share in left.values()]).mean()
            left = {name: mean.expand_as(share) for name, share in left.items()}
        low = self._min_share
        return {
            self._policies[name]: (low + (1 - low) * 0.5 * share).clamp(0, 1)
            for name, share in left.items()
        }
