"""Runs of optimal model design on tables: what they learn, leave behind, and go on from."""

import csv
import functools
import os
import signal

import numpy as np
import pytest
import torch

import mbrl
from mbrl.algorithms import Setting, TabularOMD
from mbrl.config import from_mapping, load_config
from mbrl.errors import ArgumentError, ConfigError, DivergenceError
from mbrl.finished_runs import load_policy
from mbrl.runner import run
from mbrl.signals import Interrupted
from tests.algorithms.omd import tables
from tests.tiny import newest, resume, rows, same, same_runs

TASK = "mbrl/TwoState-v0"
NOISY = {"study": "noise", "agent": "omd", "adjoint": "both", "bounds": None, "noise": [0.01, 0.1]}


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Spare the disk."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def made(seed=0, **options):
    options = {"steps": 5, "seeds": 3, "bounds": [0.5, 5.0], **options}
    setting = Setting(mbrl.make_task(TASK), {}, torch.Generator().manual_seed(seed))
    return TabularOMD(setting, **options)


@pytest.fixture
def config(tmp_path):
    """Return a function that makes a configuration; keyword arguments are of the algorithm."""

    def make(**algorithm):
        options = {"updates": 4, "steps": 3, "seeds": 2, "bounds": [0.5, 5.0], **algorithm}
        content = {
            "task": TASK,
            "algorithm": {"kind": "omd_tabular", **options},
            "output_dir": str(tmp_path / "outputs"),
            "evaluation": {"episodes": 2},
            "checkpoint": {"every": 2},
            "monitor": {"plots": {"every": 3}},
        }
        return from_mapping(content, "tabular")

    return make


def table_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# Steps


def test_the_first_step_of_adam_moves_every_entry_by_its_rate_downhill():
    """Against value iteration: the sign of the derivative of each model's objective."""
    algorithm = made(steps=1, bounds=None, study="noise", agent="omd", seeds=2, objective="bellman")
    before = {name: value.clone() for name, value in algorithm.state_dict()["theta"].items()}
    algorithm.update()
    after = algorithm.state_dict()["theta"]

    def objective(models, row):
        p, r = tables.softmax(models["logits"][..., row].numpy()), models["rewards"][..., row]
        q = tables.value_iteration(p, r.numpy())
        return -float(np.square(tables.backup(q, tables.P, tables.R) - q).mean())

    decided = 0
    for name, h in (("logits", 1e-5), ("rewards", 1e-5)):
        for index in np.ndindex(tuple(before[name].shape)):
            ends = []
            for sign in (1, -1):
                moved = {key: value.clone() for key, value in before.items()}
                moved[name][index] += sign * h
                ends.append(objective(moved, index[-1]))
            slope = (ends[0] - ends[1]) / (2 * h)
            if abs(slope) > 1e-4:  # far above Adam's epsilon, and the differences' rounding
                decided += 1
                step = float(after[name][index] - before[name][index])
                assert step == pytest.approx(0.01 * np.sign(slope), rel=1e-3)
    assert decided >= 8


def test_rows_do_not_depend_on_each_other():
    """A batch of all variants is the variants by themselves, seeds apart."""
    together = made(objective="bellman")
    for _ in range(3):
        together.update()
    whole = together.exhibits().chart.columns
    for agent, own in (("omd", {"objective": "bellman"}), ("mle", {})):
        for bound in (0.5, 5.0):
            alone = made(**own, agent=agent, bounds=[bound])
            for _ in range(3):
                alone.update()
            part = alone.exhibits().chart.columns
            chosen = [
                i
                for i, (a, b) in enumerate(zip(whole["agent"], whole["bound"], strict=True))
                if (a, b) == (agent, bound)
            ]
            for name in ("return", "q_error", "q_error_bound"):
                mine = [whole[name][i] for i in chosen]
                np.testing.assert_allclose(mine, part[name], rtol=1e-6, atol=1e-8)


def square(array):
    return np.square(array).sum(tuple(range(array.ndim - 1)))


@pytest.mark.parametrize("projection", ["joint", "per_array"])
def test_models_stay_within_their_bounds(projection):
    algorithm = made(projection=projection, steps=20)
    algorithm.update()
    theta = algorithm.state_dict()["theta"]
    bounds = np.array(algorithm.exhibits().chart.columns["bound"])
    logits, rewards = theta["logits"].numpy(), theta["rewards"].numpy()
    if projection == "joint":
        norms = [np.sqrt(square(logits / 0.01) + square(rewards))]
    else:
        by_index = [(logits[:, 0], logits[:, 1]), (rewards[0], rewards[1])]  # action, state
        norms = [np.sqrt(square(first / 0.01) + square(second)) for first, second in by_index]
    for norm in norms:
        assert (norm <= bounds * (1 + 1e-12)).all()
    assert any((norm > 0.99 * bounds).any() for norm in norms)  # and are held back by them


def test_noise_is_what_the_objective_sees_and_what_is_reported():
    quiet, noisy = made(**{**NOISY, "noise": [0.0]}), made(**{**NOISY, "noise": [0.0, 0.3]})
    for algorithm in (quiet, noisy):
        algorithm.update()
    columns = noisy.exhibits().chart.columns
    silent = [i for i, sigma in enumerate(columns["noise"]) if sigma == 0.0]
    expected = quiet.exhibits().chart.columns
    for name in ("return", "q_error"):
        found = np.array(columns[name])[silent]
        np.testing.assert_allclose(found, expected[name], rtol=1e-9, atol=1e-9)
    loud = np.array(columns["q_error"]).reshape(2, 2, -1)[:, 1]
    assert (np.abs(loud - np.array(expected["q_error"]).reshape(2, -1)) > 1e-3).all()
    theta = noisy.state_dict()["theta"]  # exact and identity saw the same noise, not the same path
    first, second = theta["rewards"].split(6, dim=-1)
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("options", "column", "gain"),
    [
        ({"agent": "omd"}, "return", 0.5),
        ({"agent": "omd", "objective": "bellman"}, "q_error", -5.0),
        ({"agent": "mle"}, "q_error_bound", -50.0),
    ],
)
def test_a_short_run_improves_what_it_optimises(options, column, gain):
    algorithm = made(bounds=[10.0], steps=200, **options)
    first = np.mean(algorithm.exhibits().chart.columns[column])
    algorithm.update()
    change = np.mean(algorithm.exhibits().chart.columns[column]) - first
    assert change / gain > 1


def test_updates_that_diverge_leave_what_was_before():
    algorithm = made()
    algorithm.update()
    before = algorithm.state_dict()
    before = {**before, "theta": {k: v.clone() for k, v in before["theta"].items()}}
    broken = {**before["theta"], "rewards": before["theta"]["rewards"].clone()}
    broken["rewards"][0, 0, 0] = float("nan")
    algorithm.load_state_dict({**before, "theta": broken})
    with pytest.raises(DivergenceError, match="not finite"):
        algorithm.update()
    after = algorithm.state_dict()
    assert torch.equal(after["generator"], before["generator"])
    assert after["done"] == 1
    assert torch.equal(after["theta"]["logits"], before["theta"]["logits"])


# Runs


@pytest.mark.parametrize("options", [{}, NOISY])
def test_the_same_seed_gives_the_same_bits(options):
    first, second, other = made(0, **options), made(0, **options), made(1, **options)
    assert [first.update() for _ in range(2)] == [second.update() for _ in range(2)]
    assert same(first.state_dict(), second.state_dict())
    assert first.update()["return_mean"] != other.update()["return_mean"]


@pytest.mark.parametrize("options", [{}, NOISY])
def test_resuming_is_the_same_bit_for_bit(config, monkeypatch, options):
    whole = run(config(**options)).run_dir
    original, calls = TabularOMD.update, []

    @functools.wraps(original)
    def stopped(self):
        calls.append(None)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self)

    with monkeypatch.context() as patch:
        patch.setattr(TabularOMD, "update", stopped)
        with pytest.raises(Interrupted):
            run(config(**options))
    path = newest(whole.parent)
    assert path != whole
    resume(path)
    assert same_runs(path, whole)
    name = f"omd_{options.get('study', 'returns')}.csv"
    assert (path / "plots" / name).read_bytes() == (whole / "plots" / name).read_bytes()


def test_a_run_leaves_a_picture_and_a_table_of_its_last_update(config):
    """Though a picture is due after every third of four."""
    folder = run(config()).run_dir
    assert sorted(file.name for file in (folder / "plots").iterdir()) == [
        "omd_returns.csv",
        "omd_returns.png",
    ]
    table, last = table_of(folder / "plots" / "omd_returns.csv"), rows(folder)[-1]
    assert len(table) == 2 * 2 * 2
    assert {(row["agent"], row["adjoint"]) for row in table} == {("omd", "exact"), ("mle", "")}
    for agent, key in (("omd", "omd_exact"), ("mle", "mle")):
        returns = [float(row["return"]) for row in table if row["agent"] == agent]
        assert np.mean(returns) == pytest.approx(float(last[f"return_{key}"]), rel=1e-12)
    assert {row["env_steps"] for row in rows(folder)} == {"0"}


def test_the_policy_of_a_run_is_the_greedy_one_of_its_best_row(config):
    folder = run(config(agent="omd", bounds=[10.0], updates=3, steps=150)).run_dir
    best = max(table_of(folder / "plots" / "omd_returns.csv"), key=lambda row: float(row["return"]))
    assert float(best["return"]) > 1.0
    chosen = load_policy(folder).act(np.array([[0.0], [1.0]]))
    assert chosen.tolist() == [[0.0], [0.0]]  # what Q_opt says


def test_charts_have_a_curve_for_every_kind_of_model():
    algorithm = made(study="bounds", objective="bellman", seeds=4)
    algorithm.update()
    chart = algorithm.exhibits().chart
    assert [len(panel.curves) for panel in chart.panels] == [2, 2]
    columns = {name: np.array(values) for name, values in chart.columns.items()}
    np.testing.assert_allclose(
        columns["bound_minus_error"], columns["q_error_bound"] - columns["q_error"]
    )
    for panel, name in zip(chart.panels, ("bound_minus_error", "q_error"), strict=True):
        for curve, agent in zip(panel.curves, ("omd", "mle"), strict=True):
            for i, bound in enumerate((0.5, 5.0)):
                chosen = (columns["agent"] == agent) & (columns["bound"] == bound)
                values = columns[name][chosen]
                assert curve.x[i] == bound
                assert curve.mean[i] == pytest.approx(values.mean())
                spread = np.sqrt(values.var(ddof=1) / 4)
                assert curve.high[i] - curve.mean[i] == pytest.approx(spread)
                assert curve.mean[i] - curve.low[i] == pytest.approx(spread)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 0}, "algorithm.steps must be at least 1, got 0"),
        ({"seeds": 0}, "algorithm.seeds must be at least 1, got 0"),
        ({"bounds": [1.0, -2.0]}, "algorithm.bounds must not be negative, got -2.0"),
        ({"noise": [-0.1]}, "algorithm.noise must not be negative, got -0.1"),
        ({"bounds": []}, "algorithm.bounds must not be empty"),
        ({"noise": []}, "algorithm.noise must not be empty"),
        ({"bounds": None}, "algorithm.bounds: study returns takes a list, got null"),
        ({"noise": [0.0, 0.1]}, "algorithm.noise: study returns takes one, got 2"),
        ({"study": "noise"}, "algorithm.bounds: study noise takes one or null, got 2"),
        (
            {"agent": "mle", "objective": "bellman"},
            "objective has no effect: mle solves no inner problem; leave it at 'returns', or",
        ),
        ({"agent": "mle", "adjoint": "both"}, "algorithm.adjoint has no effect: mle solves no"),
        (
            {"study": "noise", "bounds": None, "projection": "per_array"},
            "algorithm.projection has no effect: no norm is bounded.*choose algorithm.bounds",
        ),
    ],
)
def test_mistakes_are_named(options, words):
    with pytest.raises(ArgumentError, match=words):
        made(**options)


def test_a_task_without_tables_is_refused(config):
    changed = {**config().as_dict(), "task": "mbrl/SmoothInvertedPendulum-v0"}
    with pytest.raises(ArgumentError, match="task must be a tabular one"):
        run(from_mapping(changed))


def test_unknown_values_are_named(config):
    with pytest.raises(ConfigError, match=r"algorithm.projection: unknown value 'joined'.*'joint'"):
        config(projection="joined")


# The studies in full: rows of seeds, as an independent implementation in NumPy found them


def study(name, tmp_path, *overrides):
    file = f"configs/omd_tabular_{name}.yaml"
    result = run(load_config(file, [f"output_dir={tmp_path}", *overrides]))
    return table_of(result.run_dir / "plots" / f"omd_{name}.csv")


def by(table, agent, axis, column):
    """Return the means over seeds and their standard errors, along an axis."""
    chosen = [row for row in table if row["agent"] == agent]
    keys = list(dict.fromkeys(row[axis] for row in chosen))
    values = np.array([[float(r[column]) for r in chosen if r[axis] == key] for key in keys])
    return values.mean(1), values.std(1, ddof=1) / np.sqrt(values.shape[1])


def near(means, errors, expected):
    """Which lie within 0.05 or two standard errors."""
    return np.abs(means - np.array(expected)) <= np.maximum(0.05, 2 * errors)


RETURNS = {
    ("joint", "mle"): [-0.845, -0.811, -0.750, -0.645, -0.237, 0.521, 0.900, 1.027],
    ("joint", "omd"): [-0.626, -0.514, -0.455, -0.263, 0.185, 0.835, 0.993, 1.019],
    ("per_array", "mle"): [-0.825, -0.722, -0.482, 0.200, 0.662, 0.919, 0.996, 1.012],
    ("per_array", "omd"): [-0.593, -0.310, 0.112, 0.685, 0.995, 1.024, 1.027, 1.027],
}


@pytest.mark.slow
@pytest.mark.parametrize("projection", ["joint", "per_array"])
def test_the_study_of_returns(projection, tmp_path):
    table = study("returns", tmp_path, f"algorithm.projection={projection}")
    for agent in ("mle", "omd"):
        found = by(table, agent, "bound", "return")
        assert near(*found, RETURNS[projection, agent]).all(), found


@pytest.mark.slow
def test_the_study_of_bounds(tmp_path):
    """The first and the last of 17 bounds, and the first four of the gap of likelihood."""
    table = study("bounds", tmp_path, "algorithm.projection=per_array")
    ends = [0, -1]
    for agent, column, rows_, expected in (
        ("omd", "bound_minus_error", ends, [3.17, 2.03]),
        ("omd", "q_error", ends, [1.83, 1.50]),
        ("mle", "bound_minus_error", range(7), [25.2, 21.7, 18.3, 14.4, 3.6, 3.7, 3.2]),
        ("mle", "q_error", ends, [1.83, 1.77]),
    ):
        means, errors = by(table, agent, "bound", column)
        assert near(means[rows_], errors[rows_], expected).all(), (agent, column, means)


@pytest.mark.slow
def test_the_study_of_noise(tmp_path):
    """Noise of little, some and much harm, by more seeds than the figure has."""
    few = ("algorithm.noise=[0.002,0.014,0.05,0.1]", "algorithm.seeds=60")
    table = study("noise", tmp_path, *few)
    for adjoint in ("exact", "identity"):
        rows_ = [row for row in table if row["adjoint"] == adjoint]
        means, errors = by(rows_, "omd", "noise", "return")
        assert means[:2] == pytest.approx([1.027, 1.027], abs=0.01)
        assert abs(means[2] - 0.9) < 2 * errors[2]
        assert 0.65 - 2 * errors[3] < means[3] < 0.9
