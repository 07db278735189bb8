"""Problems and planners of a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any

from torch import nn

from mbrl.errors import ArgumentError, ConfigError
from mbrl.nn import DynamicsModel
from mbrl.ops import MujocoDynamics
from mbrl.options import Choice, at_key, chosen
from mbrl.physics import SMOOTHINGS, smoothing_of
from mbrl.planning.checks import check_counts
from mbrl.planning.costs import (
    ResidualStage,
    ResidualTerminal,
    RewardCost,
    StageCost,
    TerminalCost,
)
from mbrl.planning.learned_model import LearnedModel, learned_model
from mbrl.planning.model import Model, SimulatorModel, TorchModel
from mbrl.planning.observed import ObservedStage, PredictedReward
from mbrl.planning.planner import Planner
from mbrl.planning.problem import Problem
from mbrl.registry import PLANNERS
from mbrl.tasks import ResidualCost, Task

Chosen = Mapping[str, Any]
PlannerChoice = Annotated[Chosen, Choice(PLANNERS)]
SmoothingChoice = Annotated[Chosen, Choice(SMOOTHINGS)]
DEFAULT_PLANNER: Chosen = MappingProxyType({"kind": "ilqr"})


def make_planner(options: Chosen, horizon: int, where: str) -> Planner:
    """Return the planner of ``{kind: name, **options}`` for plans of ``horizon`` steps.

    Raises:
        MbrlError: if its options are not legal, or do not fit the horizon; names the key below
            ``where``.
    """
    complete = chosen(PLANNERS, options, where)
    entry = PLANNERS.get(complete.pop("kind"), where)
    with at_key(where, entry):
        planner: Planner = entry(**complete)
        planner.check_horizon(horizon)
    return planner


def make_problem(
    task: Task,
    horizon: int,
    *,
    cost: Chosen | None = None,
    terminal: Chosen | None = None,
    until_termination: bool = True,
    smoothing: Chosen | None = None,
    dynamics: nn.Module | Model | None = None,
    where: str = "algorithm",
) -> Problem:
    """Return the planning problem of a task.

    Args:
        task: the task.
        horizon: T.
        cost: terms of residuals to plan for, by name, in place of the task's own; see
            :class:`~mbrl.tasks.ResidualCost`. None: the task's own cost if it is one of residuals,
            else its reward, negated.
        terminal: the same of the last state; None: the task's own, if it has one and ``cost`` is
            its own too.
        until_termination: whether nothing is earned after the end of an episode.
        smoothing: whose A and B stand in; see ``Simulator.linearize``.
        dynamics: what stands in for the task's dynamics.
        where: the configuration key of these options, for messages.

    Raises:
        ArgumentError: if a cost of residuals is asked of a task without MuJoCo.
        ConfigError: naming the key that is wrong.
    """
    if not isinstance(task, Task):
        raise ArgumentError(f"task must be a Task, see mbrl.make_task; got {type(task).__name__}")
    check_counts(where, horizon=horizon)
    options = (
        {} if smoothing is None else {"smoothing": smoothing_of(smoothing, f"{where}.smoothing")}
    )
    return Problem(
        model_of(task, dynamics, **options),
        _stage(task, cost, until_termination, where),
        task.action_low,
        task.action_high,
        horizon,
        _terminal(task, terminal, cost, where),
    )


def _stage(task: Task, cost: Chosen | None, until_termination: bool, where: str) -> StageCost:
    if cost is not None:
        residuals = _residual_cost(task, cost, f"{where}.cost")
    elif task.residual_cost is not None:
        residuals = task.residual_cost
    else:
        return RewardCost(task, until_termination=until_termination)
    if not until_termination:
        raise ConfigError(
            f"{where}.until_termination has no effect: a cost of residuals goes on after the end "
            "of an episode; leave it at True"
        )
    return ResidualStage(residuals)


def _terminal(
    task: Task, terminal: Chosen | None, cost: Chosen | None, where: str
) -> TerminalCost | None:
    found = task.terminal_cost if cost is None else None
    if terminal is not None:
        found = _residual_cost(task, terminal, f"{where}.terminal")
    return None if found is None else ResidualTerminal(found, task.action_size)


def _residual_cost(task: Task, terms: Chosen, where: str) -> ResidualCost:
    if task.simulator is None:
        raise ArgumentError(f"{where}: residuals are of MuJoCo's quantities, {task.name} has none")
    return ResidualCost(task.simulator, terms, where=where)


def observed_problem(task: Task, horizon: int, model: LearnedModel) -> Problem:
    """Return the planning problem of a task in terms of observations, by a model of them.

    What is planned for is the reward that the model predicts, or else the task's observed cost.

    Args:
        task: the task.
        horizon: T.
        model: of observations, or of them and the last reward.

    Raises:
        ConfigError: if nothing says what a step costs.
    """
    if model.predicts_reward:
        stage: StageCost = PredictedReward(task.name)
    elif task.observed_cost is not None:
        stage = ObservedStage(task.observed_cost, task.name)
    else:
        raise ConfigError(
            f"algorithm.space: {task.name} does not say what a plan of observations costs; legal: "
            "'states', or a model with reward: true, or an environment with a method "
            "tensor_planning_cost(observation, action, next_observation)"
        )
    return Problem(model, stage, task.action_low, task.action_high, horizon)


def model_of(task: Task, dynamics: nn.Module | Model | None = None, **options: Any) -> Model:
    """Return the model of a task, or of other dynamics in its place.

    Args:
        task: the task.
        dynamics: what stands in for its dynamics, e.g. a learned model; a Model is returned as it
            is. None: its own.
        **options: of ``task.dynamics``: method, smoothing.

    Raises:
        ArgumentError: if options are given for dynamics that are made already, or they are none.
    """
    if dynamics is not None and not isinstance(dynamics, nn.Module | Model):
        raise ArgumentError(
            "dynamics must be a torch.nn.Module (state, action) -> next state, or a Model; got "
            f"{type(dynamics).__name__}"
        )
    if dynamics is not None and options:
        raise ArgumentError(f"{', '.join(options)}: only for a task's own dynamics")
    if isinstance(dynamics, Model):
        return dynamics
    simulator = task.simulator
    if dynamics is None and task.has_plain_dynamics and simulator is not None:
        return SimulatorModel(simulator, **options)
    if isinstance(dynamics, MujocoDynamics):
        return SimulatorModel(dynamics.simulator, **dynamics.options)
    spec = None if simulator is None else simulator.spec
    if isinstance(dynamics, DynamicsModel):
        return learned_model(dynamics, spec)
    return TorchModel(dynamics or task.dynamics(**options), task.state_size, spec)
