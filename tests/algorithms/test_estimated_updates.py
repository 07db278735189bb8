"""Policy gradients with each estimator: they improve, they resume, their options are complete."""

import copy

import pytest
import torch

from mbrl import checkpoint
from mbrl.algorithms import PolicyGradient, Setting
from mbrl.algorithms.optimizer import OptimizerOptions
from mbrl.config import from_mapping
from mbrl.errors import ArgumentError, ConfigError, DivergenceError
from mbrl.graph import Node
from mbrl.registry import NODES
from mbrl.runner import resumed_config, run
from tests.algorithms.linear import CLOSED, OPEN, TIMELESS, H, LinearQuadratic
from tests.tiny import TINY, same, same_runs, tiny_config

ESTIMATORS = {
    "pathwise": {"kind": "pathwise"},
    "score": {"kind": "score_function", "baseline": "mean", "standardize": True},
    "sum": {"kind": "sum"},
    "global": {"kind": "interpolated"},
    "per_step": {"kind": "interpolated", "scope": "per_step"},
    "hybrid": {"kind": "hybrid"},
}


def make(estimator="pathwise", policy=None, task=None, graph=None, **options):
    policy = policy or (OPEN if estimator == "hybrid" else TIMELESS)
    task = task or LinearQuadratic(0.0 if estimator == "hybrid" else 0.3)
    setting = Setting(
        task, graph or {"nodes": {"policy": policy}}, torch.Generator().manual_seed(0)
    )
    defaults = {"horizon": H, "batch": 8, "estimator": ESTIMATORS[estimator]}
    return PolicyGradient(setting, **{**defaults, **options})


@pytest.mark.parametrize(
    ("estimator", "weighting"),
    [*((name, "sum") for name in ESTIMATORS), ("pathwise", "average"), ("hybrid", "prioritise")],
)
def test_every_estimator_finds_better_policies(estimator, weighting):
    algorithm = make(
        estimator,
        weighting=weighting,
        updates=60,
        optimizer=OptimizerOptions(lr=0.05, final_lr=0.1),
    )

    def noise_free():
        start = algorithm._task.start(100, torch.Generator().manual_seed(5)).state
        with torch.no_grad():
            return float(algorithm.graph.unroll(start, H).rewards.sum(0).mean())

    before = noise_free()
    for _ in range(60):
        measured = algorithm.update()
    assert noise_free() > 0.7 * before  # returns are negative
    assert measured["env_steps"] == 8 * H


@pytest.mark.parametrize("start", [{"kind": "reset"}, {"kind": "replay", "size": 50}])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_restored_algorithm_continues_bit_for_bit(estimator, start, tmp_path):
    if estimator == "hybrid":
        start = {"kind": "reset"}
    one, other = (make(estimator, start=start, horizon_start=2) for _ in range(2))
    for _ in range(4):
        one.update()
    checkpoint.save(tmp_path / "a.pt", one.state_dict())
    other.load_state_dict(checkpoint.load(tmp_path / "a.pt"))
    rows = [[algorithm.update() for _ in range(4)] for algorithm in (one, other)]
    assert rows[0] == rows[1]
    assert same(one.state_dict(), other.state_dict())


def test_what_an_estimator_remembers_matters():
    """Restored without it, the next update is another: the test above tests something."""
    for estimator in ("hybrid", "global"):
        one, other = (make(estimator) for _ in range(2))
        for _ in range(3):
            one.update()
        state = copy.deepcopy(one.state_dict())
        if estimator == "global":
            state["estimator"]["initial_sd"]["policy"] += 0.1
        else:
            state["estimator"] = other.state_dict()["estimator"]
        other.load_state_dict(state)
        one.update()
        other.update()
        assert not same(one.state_dict()["graph"], other.state_dict()["graph"])


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_an_update_that_diverges_leaves_everything_as_it_was(estimator):
    class Steep(LinearQuadratic):
        steep = False

        def reward(self, state, action, next_state, **rest):
            reward = super().reward(state, action, next_state)
            return reward + (next_state.sum(-1) * 0).sqrt() if self.steep else reward

    hybrid = estimator == "hybrid"
    task = Steep(0.0 if hybrid else 0.3)
    algorithm = make(estimator, task=task, start={"kind": "reset" if hybrid else "replay"})
    algorithm.update()
    before = copy.deepcopy(algorithm.state_dict())
    task.steep = True
    if estimator == "score":
        algorithm.update()  # it asks for no slope
        return
    with pytest.raises(DivergenceError, match="the gradient of the return is not finite"):
        algorithm.update()
    after = algorithm.state_dict()
    assert not same(before.pop("generator"), after.pop("generator"))  # the runner sees to it
    assert same(before, after)


def test_physics_need_no_gradient_for_the_score_function():
    class Bare(LinearQuadratic):
        def reward(self, state, action, next_state, **rest):
            assert not torch.is_grad_enabled()
            return super().reward(state, action, next_state).round()

    make("score", task=Bare()).update()


def test_only_policies_can_be_weighed():
    class Encoder(Node):
        inputs = {"observation": "n_obs"}
        outputs = {"code": "n_obs"}

        def __init__(self, place):
            super().__init__(place)
            self.scale = torch.nn.Parameter(torch.tensor(0.9, dtype=torch.float64))

        def forward(self, step, observation):
            return self.scale * observation

    NODES.register("test_encoder")(Encoder)
    graph = {
        "nodes": {
            "observe": {"kind": "observe"},
            "encode": {"kind": "test_encoder"},
            "policy": {**CLOSED, "inputs": ["code"]},
            "dynamics": {"kind": "dynamics"},
            "reward": {"kind": "reward"},
        },
        "carry": {"state": "next_state"},
        "base": "empty",
    }
    try:
        before = make(graph=graph)
        before.update()
        assert float(before.graph.nodes["encode"].scale.detach()) != 0.9
        with pytest.raises(ArgumentError, match="average weighs what reaches policies, and graph"):
            make(graph=graph, weighting="average")
        for estimator in ("score", "sum", "global"):
            with pytest.raises(
                ArgumentError, match=r"graph\.nodes\.encode has parameters and is no"
            ):
                make(estimator, graph=graph)
        with pytest.raises(ArgumentError, match="the graph has policy, encode"):
            make("hybrid", graph=graph)
    finally:
        del NODES._entries["test_encoder"]


# Configurations


def algorithm(**changes):
    return {**TINY["algorithm"], **changes}


def test_a_configuration_is_completed():
    content = {
        "task": "T-v0",
        "algorithm": algorithm(
            estimator={"kind": "interpolated", "min_share": 1}, start={"kind": "replay"}
        ),
    }
    config = from_mapping(content)
    assert config.algorithm["estimator"] == {
        "kind": "interpolated",
        "scope": "global",
        "min_share": 1.0,
        "min_sd": 1e-4,
        "baseline": "leave_one_out",
        "standardize": False,
    }
    assert config.algorithm["start"] == {"kind": "replay", "size": 32768, "fresh": 0.25}
    assert from_mapping(config.as_dict()) == config
    plain = from_mapping({"task": "T-v0", "algorithm": TINY["algorithm"]})
    assert plain.algorithm["estimator"] == {"kind": "pathwise"}
    assert plain.algorithm["start"] == {"kind": "reset"}


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        ({"kind": "reinforce"}, r"algorithm\.estimator\.kind: unknown value 'reinforce'; legal: "),
        ({}, r"algorithm\.estimator\.kind: unknown value None; legal: hybrid, interpolated, "),
        ({"kind": ["sum"]}, r"algorithm\.estimator\.kind: unknown value \['sum'\]; legal"),
        ({"kind": "sum", "baselin": 1}, r"'algorithm\.estimator\.baselin'; .* mean 'baseline'\?"),
        ({"kind": "sum", "baseline": "men"}, r"estimator\.baseline: unknown .* mean 'mean'\?"),
        ({"kind": "sum", "score_weight": "x"}, r"score_weight must be a finite number, got 'x'"),
        ("sum", r"algorithm\.estimator must be a mapping with a kind, got 'sum'"),
    ],
)
def test_mistakes_in_a_configuration_are_named(estimator, message):
    content = {"task": "T-v0", "algorithm": algorithm(estimator=estimator)}
    with pytest.raises(ConfigError, match=message):
        from_mapping(content)


def test_a_run_repeats_from_its_completed_configuration_and_resumes(tmp_path):
    config = tiny_config(
        tmp_path,
        algorithm=algorithm(
            estimator={"kind": "score_function"}, start={"kind": "replay", "size": 12}
        ),
    )
    first = run(config).run_dir
    second = run(resumed_config(first)).run_dir
    assert first != second
    assert same_runs(first, second)
    half = run(
        from_mapping({**config.as_dict(), "algorithm": {**config.algorithm, "updates": 2}})
    ).run_dir
    run(config, resume=half)
    assert same_runs(half, first)
