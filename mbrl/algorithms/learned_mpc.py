"""Model-based reinforcement learning: learn the dynamics, plan with them, learn from what came."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from mbrl.algorithms.algorithm import Actor, Setting, StateActor
from mbrl.algorithms.learner import FitOptions, Learner, described
from mbrl.algorithms.model_errors import model_errors, open_loop
from mbrl.algorithms.planning import shared
from mbrl.data import Episode, Trajectories
from mbrl.errors import ConfigError, MbrlError
from mbrl.nn import Device, DynamicsModel, find_device
from mbrl.options import Choice, at_key
from mbrl.planning import (
    ObservingController,
    PlannerChoice,
    Problem,
    PropagationOptions,
    RecedingHorizon,
    SamplingPlanner,
    Schedule,
    Tail,
    learned_model,
    make_planner,
    make_problem,
    observed_problem,
)
from mbrl.planning.checks import check_counts, check_not_negative
from mbrl.ranks import ALONE, Ranks
from mbrl.registry import DYNAMICS
from mbrl.tasks import Collection, Space, Task, collect, drawn_seeds, random_actions
from mbrl.types import Array, Exhibits, RecordedEpisode

ModelChoice = Annotated[Mapping[str, Any], Choice(DYNAMICS)]
_MLP: Mapping[str, Any] = MappingProxyType({"kind": "mlp"})
_RANDOM_SHOOTING: Mapping[str, Any] = MappingProxyType({"kind": "random_shooting"})
_DEFAULT_FIT = FitOptions()
_DEFAULT_PROPAGATION = PropagationOptions()


class _Planned(NamedTuple):
    """The episodes of an iteration."""

    seed: int  # of the controller
    controller: RecedingHorizon
    collection: Collection


class LearnedMPC:
    r"""Data aggregation: a model fitted to all transitions so far, and episodes planned with it.

    .. math:: \theta_i = \arg\min_\theta \sum_{(o, u, o') \in D_i}
              \Big| \frac{o' - o - \mu_d}{\sigma_d} - f_\theta(o, u) \Big|^2, \qquad
              D_{i+1} = D_i \cup \{\text{episodes of MPC with } f_{\theta_i}\}

    D_0 are episodes of uniformly random actions. The model predicts observations o, and a plan
    minimises the sum of ``Task.observed_cost`` along them, or maximises that of the rewards that
    the model predicts too. With ``space: states`` o is the state, which the controller then must
    be able to measure, and a plan is for the task's own cost or reward. Nagabandi et al. 2018,
    "Neural network dynamics for model-based deep reinforcement learning with model-free
    fine-tuning", algorithm 1; Berkeley's CS 294-112, fall 2017, homework 4. With an ensemble and a
    planner of the cross-entropy kind it is the PETS of Chua et al. 2018, "Deep reinforcement
    learning in a handful of trials using probabilistic dynamics models".

    An update is one iteration: fit, then run the episodes in the real environment, in lockstep, so
    that a control step plans for all of them at once. ``return_mean`` and ``cost_mean`` are those
    of the episodes, by the environment's own reward and by the task's observed cost. Errors of
    the model are measured on the same episodes before it is fitted to them: over one step in
    deviations of the change, and over 15 steps on its own in deviations of the observations; with
    ``validation_episodes``, on those as well.

    Args:
        setting: task and generator.
        planner: ``{kind: ..., **options}``.
        model: ``{kind: ..., **options}``.
        fit: see :class:`FitOptions`.
        space: what the model predicts: observations or states.
        updates: iterations.
        horizon: H of a plan.
        propagation: of the uncertainty of an ensemble.
        cost: of states only, as the next two: terms of residuals in place of the task's cost; see
            ``mbrl.planning.make_problem``.
        terminal: the same of the last state.
        until_termination: whether nothing is earned after the end of an episode, with states; in
            the space of observations nobody knows of ends.
        episodes: in an iteration.
        random_episodes: of random actions, before the first.
        validation_episodes: of random actions, which no fit sees.
        steps: of an episode, at most; null: as many as the task has.
        iterations: the planner's, at every plan but an episode's first; null: its own number.
        first_iterations: those of the first; null: the planner's own number.
        every: control steps between two plans.
        tail: what fills the end of a shifted plan: hold or rest.
        device: where the model is fitted and plans are rolled out: cpu, cuda, or auto, which is
            cuda where there is one.

    Raises:
        ArgumentError: if a number is out of its range.
        ConfigError: naming the key that is wrong, or the task, if it has no observed cost.
    """

    shares_ranks = True

    def __init__(
        self,
        setting: Setting,
        *,
        planner: PlannerChoice = _RANDOM_SHOOTING,
        model: ModelChoice = _MLP,
        fit: FitOptions = _DEFAULT_FIT,
        space: Space = "observations",
        updates: int = 15,
        horizon: int = 15,
        propagation: PropagationOptions = _DEFAULT_PROPAGATION,
        cost: Mapping[str, Any] | None = None,
        terminal: Mapping[str, Any] | None = None,
        until_termination: bool = True,
        episodes: int = 10,
        random_episodes: int = 10,
        validation_episodes: int = 0,
        steps: int | None = None,
        iterations: int | None = None,
        first_iterations: int | None = None,
        every: int = 1,
        tail: Tail = "hold",
        device: Device = "auto",
    ):
        check_counts(
            "algorithm",
            updates=updates,
            horizon=horizon,
            episodes=episodes,
            random_episodes=random_episodes,
            steps=steps,
        )
        check_not_negative("algorithm", validation_episodes=validation_episodes)
        self._updates, self._setting = updates, setting
        self._task, self._generator, self._space = setting.task, setting.generator, space
        task, observing = setting.task, space == "observations"
        self._episodes, self._random_episodes = episodes, random_episodes
        self._validation_episodes = validation_episodes
        self._steps = steps or task.max_episode_steps or 1000
        description = described(model, task, space)
        size = description.state_size
        place = find_device(device, "algorithm.device")
        network = description.build(self._generator, "algorithm.model").to(place)
        with at_key("algorithm.model", type(network)):
            self._learner = Learner(network, fit, self._generator, description)
        self._planner = make_planner(planner, horizon, "algorithm.planner")
        self._horizon, self._propagation = horizon, propagation
        self._costs: dict[str, Any] = {"cost": cost, "terminal": terminal}
        if observing:
            _refuse(**self._costs)
            if not until_termination:
                raise ConfigError(
                    "algorithm.until_termination has no effect: a model of observations does not "
                    "know when episodes end; leave it at True, or choose space: states"
                )
        else:
            self._costs["until_termination"] = until_termination
            _check_known_reward(task, cost, self._learner.model)
        each = self._planner.iterations if iterations is None else iterations
        self._options: dict[str, Any] = {
            "schedule": Schedule(every, each, first_iterations),
            "tail": tail,
        }
        self._seed = self._drawn_seed()
        self.actor()  # says what is wrong with its options
        self._data = Trajectories(size, task.action_size)
        self._validation = Trajectories(size, task.action_size)
        self._counted = 0  # environment steps that have been reported
        self._fitted: dict[str, float] = {}  # what the last fit measured
        self._planned: _Planned | None = None
        self._put_by: Mapping[str, Any] | None = None  # the same of a checkpoint, not yet resumed
        self._exhibits = Exhibits()

    @property
    def updates(self) -> int:
        """Iterations there are to be."""
        return self._updates

    def update(self) -> dict[str, float]:
        """Fit the model to all data, and run episodes that are planned with it."""
        if not len(self._data):
            episodes = self._random(self._random_episodes)
            if self._validation_episodes:
                self._validation.append(self._random(self._validation_episodes))
            self._data.append(episodes)
        if self._put_by is not None:
            self._planned, self._put_by = self._resumed(self._put_by), None
        if self._planned is None:
            self._learner.fit(self._data, self._setting.pause)
            seeds = drawn_seeds(self._episodes, self._generator)
            # Should environments fail to begin, the fit is not over.
            collection = Collection(self._task, seeds, steps=self._steps, space=self._space)
            self._fitted = self._learner.finish()
            self._planned = self._begun(self._drawn_seed(), collection)
            self._setting.pause("episodes begin")
        measured = self._collected(self._planned)
        before, self._counted = self._counted, self._data.steps + self._validation.steps
        return {"env_steps": float(self._counted - before), **measured, **self._fitted}

    def actor(self) -> Actor | StateActor:
        """Return a controller that plans with the model as it is."""
        controller = self._made_controller(self._seed)
        return controller if self._space == "states" else ObservingController(controller)

    def exhibits(self) -> Exhibits:
        """Return the first episode of the last iteration, and how the model foretold its beginning.

        The prediction is of the model that the episode was planned with: it has not seen it.
        """
        return self._exhibits

    def state_dict(self) -> dict[str, Any]:
        """All data, the model, the fit or the episodes in progress, and the random state."""
        return {
            "data": self._data.state_dict(),
            "validation": self._validation.state_dict(),
            "learner": self._learner.state_dict(),
            "planned": self._put_by if self._planned is None else _kept(self._planned),
            "counted": self._counted,
            "fitted": dict(self._fitted),
            "seed": self._seed,
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._data.load_state_dict(state["data"])
        self._validation.load_state_dict(state["validation"])
        self._learner.load_state_dict(state["learner"], self._data)
        self._seed, self._counted = int(state["seed"]), int(state["counted"])
        self._fitted = dict(state["fitted"])
        if self._planned is not None:
            self._planned.collection.close()
        self._planned, self._put_by = None, state["planned"]
        self._generator.set_state(state["generator"])
        self._exhibits = Exhibits()

    def _begun(self, seed: int, collection: Collection) -> _Planned:
        return _Planned(seed, self._made_controller(seed, self._setting.ranks), collection)

    def _resumed(self, kept: Mapping[str, Any]) -> _Planned:
        """Go on with episodes where they were put by."""
        collection = Collection.resumed(
            self._task, kept["collection"], steps=self._steps, space=self._space
        )
        planned = self._begun(int(kept["seed"]), collection)
        planned.controller.load_state_dict(kept["controller"])
        return planned

    def _made_controller(self, seed: int, ranks: Ranks = ALONE) -> RecedingHorizon:
        problem = shared(self._problem(seed), self._planner, ranks)
        with at_key("algorithm", LearnedMPC):
            return RecedingHorizon(problem, self._planner, seed=seed, **self._options)

    def _problem(self, seed: int) -> Problem:
        """Return what is planned; the seed is that of a model's own noise, if it has any."""
        task, of_states = self._task, self._space == "states"
        mode = self._propagation.mode
        if mode != "expectation" and not isinstance(self._planner, SamplingPlanner):
            raise ConfigError(
                f"algorithm.propagation.mode: {mode!r} takes a planner that samples; legal with "
                f"{type(self._planner).__name__}: expectation"
            )
        spec = task.simulator.spec if of_states and task.simulator is not None else None
        with at_key("algorithm.propagation", PropagationOptions):
            learned = learned_model(
                self._learner.model, spec, propagation=self._propagation, seed=seed
            )
        if of_states:
            return make_problem(task, self._horizon, **self._costs, dynamics=learned)
        return observed_problem(task, self._horizon, learned)

    def _random(self, episodes: int) -> list[Episode]:
        act = random_actions(self._task, self._generator)
        return collect(
            self._task,
            act,
            episodes=episodes,
            steps=self._steps,
            generator=self._generator,
            space=self._space,
        )

    def _collected(self, planned: _Planned) -> dict[str, float]:
        """Run the episodes to their ends, and make them data."""
        controller, collection = planned.controller, planned.collection
        while not collection.is_over:
            before = controller.state_dict()
            try:
                collection.step(self._chosen(controller, collection))
            except MbrlError:
                controller.load_state_dict(before)
                raise
            self._setting.pause(f"step {collection.t} of at most {self._steps}")
        collection.close()
        episodes = collection.episodes()
        measured = {
            **self._outcome(episodes, collection.succeeded),
            **controller.measured(),
            **self._errors(episodes),
        }
        self._exhibits = _exhibited(
            self._task, self._learner.model, collection.seeds[0], episodes[0]
        )
        self._data.append(episodes)
        self._planned = None
        return measured

    def _chosen(self, controller: RecedingHorizon, collection: Collection) -> Array:
        seen, t, running = collection.observations, collection.t, collection.running
        if self._space == "states":
            return controller.act(seen, t, collection.contexts, running)
        return ObservingController(controller).act_at(seen, t, running)

    def _outcome(
        self, episodes: list[Episode], succeeded: NDArray[np.bool_] | None
    ) -> dict[str, float]:
        returns = torch.stack([episode.rewards.sum() for episode in episodes])
        measured = {
            "return_mean": float(returns.mean()),
            "return_std": float(returns.std(correction=0)),
            "length_mean": sum(len(episode.actions) for episode in episodes) / len(episodes),
        }
        cost = self._task.observed_cost
        if self._space == "observations" and cost is not None:
            costs = [cost(seen[:-1], actions, seen[1:]).sum() for seen, actions, _ in episodes]
            measured["cost_mean"] = float(torch.stack(costs).mean())
        if succeeded is not None:
            measured["success_rate"] = float(succeeded.mean())
        return measured

    def _errors(self, episodes: list[Episode]) -> dict[str, float]:
        """Return the model's errors on episodes that it has not been fitted to."""
        fresh = Trajectories(self._data.observation_size, self._data.action_size)
        fresh.append(episodes)
        errors = model_errors(self._learner.model, fresh)
        if len(self._validation):
            errors |= model_errors(self._learner.model, self._validation, "validation_")
        return errors

    def _drawn_seed(self) -> int:
        return int(torch.randint(2**31 - 1, (), generator=self._generator))


def _kept(planned: _Planned) -> dict[str, Any]:
    return {
        "seed": planned.seed,
        "controller": planned.controller.state_dict(),
        "collection": planned.collection.state_dict(),
    }


def _check_known_reward(task: Task, cost: Mapping[str, Any] | None, model: DynamicsModel) -> None:
    """Refuse to plan for a reward that only the simulator knows."""
    if model.predicts_reward:
        raise ConfigError("algorithm.model.reward: of states the task's own reward is planned for")
    if cost is None and task.residual_cost is None and not task.has_reward_formula:
        raise ConfigError(
            f"algorithm.space: the reward of {task.name} is known to its simulator alone; legal "
            "with states: algorithm.cost, or an environment with a method tensor_reward"
        )


def _refuse(**costs: Mapping[str, Any] | None) -> None:
    for name, value in costs.items():
        if value is not None:
            raise ConfigError(
                f"algorithm.{name}: residuals are of states, and the model predicts observations; "
                "say space: states"
            )


def _exhibited(task: Task, model: DynamicsModel, seed: int, episode: Episode) -> Exhibits:
    return Exhibits(
        open_loop(task, model, episode),
        RecordedEpisode(seed, episode.actions.numpy()),
    )
