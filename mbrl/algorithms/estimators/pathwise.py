"""The reparameterised gradient, through policy, physics and reward."""

from __future__ import annotations

from torch import Tensor

from mbrl.algorithms.estimators.estimator import Estimate, Estimator, Problem, Subject
from mbrl.errors import ArgumentError
from mbrl.types import Trajectory


class Pathwise(Estimator):
    r"""The derivative of sampled returns, the noise held fixed.

    .. math:: \hat g = \frac{1}{N} \sum_{n=1}^{N} \nabla_\theta \sum_{t=0}^{H-1} \gamma^t
              r(x_t^n, u_t^n, x_{t+1}^n), \qquad u_t^n = \pi_\theta(o(x_t^n), \xi_t^n)

    Bias: none where rewards and physics are differentiable and episodes end by their time limit.
    That a policy can change when an episode terminates, or jump across a discontinuity of the
    physics, is not seen.

    Source: Kingma and Welling 2014, section 2.4; Heess et al. 2015, section 4, with the true
    dynamics in place of a model; method "R" of Model-Based-RL.

    Args:
        subject: what is trained.
    """

    def estimate(self, problem: Problem) -> Estimate:
        """Differentiate the return of rollouts."""
        objective = problem.objective
        gain = None if objective.gains is None else objective.gain
        trajectory = problem.unroll(self._subject.graph, gain=gain)
        return self._result(problem, trajectory, pathwise_loss(self._subject, problem, trajectory))


def pathwise_loss(
    subject: Subject, problem: Problem, trajectory: Trajectory, row: int | None = None
) -> Tensor:
    """Return a loss whose gradient, summed over ranks, is the pathwise one of -J.

    Args:
        subject: what is trained.
        problem: what is to be ascended.
        trajectory: rollouts, made with the gains of the objective.
        row: the row of the whole batch that counts; None: the mean of all.

    Raises:
        ArgumentError: if rewards do not depend on the policy's parameters.
    """
    values = (problem.objective.weights[:, None] * trajectory.rewards).sum(0)  # (B)
    if row is None:
        loss = -values.sum() / problem.size
    else:  # of one rank; for the others there is nothing
        here = [problem.rows.index(row)] if row in problem.rows else []
        loss = -values[here].sum()
    if not loss.requires_grad:
        earned = trajectory.rewards.detach()[trajectory.alive]
        if bool((earned != earned[:1]).any()):
            raise ArgumentError(
                f"task: the reward of {subject.graph.task.name} varies, but torch finds no slope: "
                "it is one of steps, or its formula leaves torch (.numpy(), .detach(), no_grad)"
            )
        raise ArgumentError(
            f"task: the reward of {subject.graph.task.name} is constant along a rollout: it has no "
            "pathwise gradient. Train on a smooth variant and evaluate here (task, eval_task)"
        )
    return loss
