"""Several ranks do what one does: gradients, statistics, plans; and what happens if one is lost."""

import contextlib
import csv
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

import mbrl
from mbrl.algorithms import ModelPredictiveControl, PolicyGradient, Setting, TrajectoryOptimization
from mbrl.cli import main
from mbrl.errors import ArgumentError, ConfigError, DivergenceError, RankError
from mbrl.finished_runs import evaluate_actor, made_algorithm
from mbrl.ranks import ALONE, Ranks, TorchRanks
from mbrl.signals import Interrupted
from tests.ranks_in_threads import on_ranks
from tests.tiny import tiny_config

GAUSSIAN = {"kind": "gaussian_mlp", "hidden": [8], "dtype": "float64", "initial_sd": 0.3}
CLOSED = {"nodes": {"policy": {**GAUSSIAN, "normalize": True}}}
CONSTANT = {"nodes": {"policy": {**GAUSSIAN, "deviation": "constant"}}}
OPEN = {"nodes": {"policy": {"kind": "open_loop", "steps": 6, "initial_sd": 0.2}}}
HOPPER, STILL = ("Hopper-v5", {}), ("HalfCheetah-v5", {"reset_noise_scale": 0})
# (task and arguments, graph, estimator, other options)
ESTIMATORS = {
    "pathwise": (HOPPER, CLOSED, {"kind": "pathwise"}, {"start": {"kind": "replay", "size": 40}}),
    "average": (HOPPER, CLOSED, {"kind": "pathwise"}, {"weighting": "average"}),
    "leave_one_out": (HOPPER, CLOSED, {"kind": "score_function"}, {}),
    "standardized": (
        HOPPER,
        CLOSED,
        {"kind": "score_function", "baseline": "mean", "standardize": True},
        {},
    ),
    "sum": (HOPPER, CLOSED, {"kind": "sum"}, {}),
    "interpolated": (HOPPER, CONSTANT, {"kind": "interpolated"}, {}),
    "hybrid": (STILL, OPEN, {"kind": "hybrid"}, {}),
}


def trained(case, ranks):
    """Return the state after some updates of a batch that no number of ranks divides."""
    (name, arguments), graph, estimator, options = case
    setting = Setting(
        mbrl.make_task(name, threads=1, **arguments),
        graph,
        torch.Generator().manual_seed(3),
        ranks=ranks,
    )
    algorithm = PolicyGradient(
        setting, updates=3, batch=7, horizon=6, estimator=estimator, **options
    )
    rows = [algorithm.update() for _ in range(3)]
    seen = {name: torch.from_numpy(value) for name, value in algorithm.diagnostics().items()}
    return rows, algorithm.state_dict(), seen


def assert_equal(found, expected, where=""):
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert_equal(found[key], value, f"{where}.{key}")
    elif isinstance(expected, list | tuple):
        for i, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_equal(one, other, f"{where}[{i}]")
    elif isinstance(expected, torch.Tensor) and not expected.is_floating_point():
        assert torch.equal(found, expected), where
    elif isinstance(expected, torch.Tensor | float):
        torch.testing.assert_close(
            torch.as_tensor(found), torch.as_tensor(expected), rtol=1e-9, atol=1e-10, msg=where
        )
    else:
        assert found == expected, where


@pytest.mark.parametrize("name", ESTIMATORS)
def test_ranks_train_as_one_does(name):
    expected = trained(ESTIMATORS[name], ALONE)
    for size in (2, 3):
        first, *others = on_ranks(size, lambda ranks: trained(ESTIMATORS[name], ranks))
        assert_equal(first, expected)
        for other in others:  # to the bit: they must never drift apart
            torch.testing.assert_close(other, first, rtol=0, atol=0)


def test_gradients_of_one_update_agree_to_rounding():
    def gradient(ranks):
        setting = Setting(
            mbrl.make_task("HalfCheetah-v5", threads=1),
            CLOSED,
            torch.Generator().manual_seed(0),
            ranks=ranks,
        )
        algorithm = PolicyGradient(setting, batch=64, horizon=8, clip_norm=None)
        algorithm.update()
        return [parameter.grad for parameter in algorithm.graph.parameters()]

    expected = gradient(ALONE)
    for found in on_ranks(2, gradient):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["random_shooting", "cem", "icem", "mppi", "predictive_sampling"])
def test_ranks_plan_as_one_does(kind):
    def planned(ranks):
        setting = Setting(
            mbrl.make_task("Hopper-v5", threads=1),
            {},
            torch.Generator().manual_seed(1),
            ranks=ranks,
        )
        algorithm = TrajectoryOptimization(
            setting, planner={"kind": kind, "samples": 25}, horizon=5, batch=2, updates=2
        )
        algorithm.update()
        algorithm.update()
        return algorithm.state_dict()["search"]

    expected = planned(ALONE)
    for found in on_ranks(2, planned):
        assert_equal(found, expected)


def test_ranks_control_as_one_does():
    def controlled(ranks):
        setting = Setting(
            mbrl.make_task("HalfCheetah-v5", threads=1),
            {},
            torch.Generator().manual_seed(1),
            ranks=ranks,
        )
        options = {"planner": {"kind": "mppi", "samples": 5}, "horizon": 4, "batch": 2}
        algorithm = ModelPredictiveControl(setting, updates=3, **options)
        found = [algorithm.update()["return_mean"] for _ in range(3)]
        assert algorithm.actor().problem.ranks is ALONE  # evaluations are of one rank
        return found

    expected = controlled(ALONE)
    for found in on_ranks(2, controlled):
        assert found == pytest.approx(expected, rel=1e-10)


def test_rows_are_shared_evenly_and_gathered_in_order():
    whole = torch.arange(14.0).view(7, 2)

    def job(ranks):
        mine = whole[ranks.rows(7)]
        counts = torch.tensor(float(len(mine)))
        return ranks.gathered(mine, 7), ranks.total(counts), ranks.any(ranks.rank == 1)

    for gathered, total, found in on_ranks(3, job):
        assert torch.equal(gathered, whole)
        assert total == 7
        assert found


def test_an_error_of_one_rank_ends_it_for_all():
    def job(ranks):
        try:
            with ranks.together():
                if ranks.rank:
                    raise DivergenceError("row 0 is lost")
        except DivergenceError as error:
            return str(error)
        return "went on"

    first, second = on_ranks(2, job)
    assert "another rank" in first
    assert second == "row 0 is lost"


def test_an_error_is_told_even_where_another_rank_is_gone():
    class Lonely(TorchRanks):
        rank, size = 0, 2

        def __init__(self):
            """Without a process group."""

        def _all(self, value):
            raise RankError("gone")

    with pytest.raises(DivergenceError, match="row 0 is lost"), Lonely().together():
        raise DivergenceError("row 0 is lost")
    with pytest.raises(RankError, match="gone"), Lonely().together():
        pass


class Leaving(Ranks):
    """A rank whose others leave after so many words."""

    def __init__(self, words):
        self.left = words

    def total(self, value):
        self.left -= 1
        if self.left < 0:
            raise RankError("gone")
        return value.detach()

    def totals(self, values):
        return [self.total(value) for value in values]

    def gathered(self, rows, count):
        return self.total(rows)


def policy_gradient(setting):
    return PolicyGradient(setting, batch=3, horizon=3)


def planner(setting):
    return TrajectoryOptimization(
        setting, planner={"kind": "cem", "samples": 4, "elites": 2}, horizon=3
    )


@pytest.mark.parametrize("make", [policy_gradient, planner])
def test_whenever_another_rank_is_lost_nothing_is_half_done(make):
    def begun(ranks):
        task = mbrl.make_task("HalfCheetah-v5", threads=1)
        generator = torch.Generator().manual_seed(0)
        algorithm = make(Setting(task, CLOSED, generator, ranks=ranks))
        algorithm.update()
        return algorithm, generator

    undisturbed, _ = begun(ALONE)
    undisturbed.update()
    ranks = Leaving(1000)
    algorithm, generator = begun(ranks)
    words, drawn = 1000 - ranks.left, generator.get_state()
    assert words
    for last in range(words):
        ranks.left = last
        with pytest.raises(RankError):
            algorithm.update()
        generator.set_state(drawn)  # as the runner does
    ranks.left = words
    algorithm.update()
    torch.testing.assert_close(algorithm.state_dict(), undisturbed.state_dict(), rtol=0, atol=0)


class Two(Ranks):
    size = 2


@pytest.mark.parametrize(
    ("algorithm", "options", "error", "words"),
    [
        (PolicyGradient, {"batch": 1}, ArgumentError, "algorithm.batch must be at least .* 2"),
        (TrajectoryOptimization, {}, ConfigError, "planner.kind: ILQR runs in one process"),
        (
            ModelPredictiveControl,
            {"planner": {"kind": "icem"}, "seconds": 0.1},
            ConfigError,
            "algorithm.seconds: the clocks",
        ),
    ],
)
def test_what_cannot_be_shared_is_refused(algorithm, options, error, words):
    task = mbrl.make_task("HalfCheetah-v5", threads=1)
    with pytest.raises(error, match=words):
        algorithm(Setting(task, {}, torch.Generator(), ranks=Two()), **options)


CONFIG = """
task: mbrl/SmoothInvertedPendulum-v0
graph: {nodes: {policy: {kind: gaussian_mlp, normalize: true, dtype: float64}}}
algorithm: {kind: policy_gradient, updates: 100000, batch: 9, horizon: 4, estimator: {kind: sum}}
evaluation: {episodes: 1}
eval_task_args: {max_episode_steps: 5}
checkpoint: {every: 5}
"""


def torchrun(*arguments, program="main.py", processes=2):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(processes), str(program), *map(str, arguments)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def rows_of(folder):
    file = folder / "metrics.csv"
    if not file.exists():
        return []
    with file.open() as lines:
        return [row for row in csv.DictReader(lines) if row["learning_rate"]]


def under_way(tmp_path, process, updates):
    """Return the folder of a run once it has made so many updates, and the ranks' processes."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        folders = list(tmp_path.glob("*/*-seed0"))
        if folders and len(rows_of(folders[0])) >= updates:
            children = f"/proc/{process.pid}/task/{process.pid}/children"
            with open(children) as file:
                return folders[0], [int(pid) for pid in file.read().split()]
        time.sleep(0.1)
    process.kill()
    raise AssertionError(process.communicate()[0])


def test_a_lost_rank_stops_the_others_and_one_process_goes_on(tmp_path):
    """As ``torchrun`` starts them: two ranks, of which one is killed; then resumed by one."""
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG)
    process = torchrun("--config-file", config, f"output_dir={tmp_path}")
    folder, pids = under_way(tmp_path, process, 3)
    os.kill(pids[1], signal.SIGKILL)
    killed = time.monotonic()
    said = process.communicate(timeout=60)[0]
    assert time.monotonic() - killed < 60
    errors = [line for line in said.splitlines() if line.startswith("error:")]
    assert len(errors) == 1, said
    assert "rank 0 has lost another one" in errors[0]
    assert f"--resume {folder}" in errors[0]
    done = len(rows_of(folder))
    changed = mbrl.load_config(folder / "config.yaml", [f"algorithm.updates={done + 5}"])
    mbrl.run(changed, resume=folder)
    alone = mbrl.run({**changed.as_dict(), "output_dir": str(tmp_path / "alone")})
    found, expected = rows_of(folder), rows_of(alone.run_dir)
    for name in ("return_mean", "gradient_norm"):
        assert [float(row[name]) for row in found] == pytest.approx(
            [float(row[name]) for row in expected], rel=1e-9
        )


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="threads cannot be counted here")
def test_no_thread_of_the_group_is_left_to_meet_the_end_of_python(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("""
import os, sys
import torch
from mbrl.ranks import joined

with joined() as ranks:
    during = len(os.listdir("/proc/self/task"))
    optimizer = torch.optim.Adam([torch.ones(1, requires_grad=True)])  # imports more of torch
    ranks.any(False)
after = len(os.listdir("/proc/self/task"))
sys.stdout.write(f"{ranks.rank}: {during > 3} {after}\\n")
""")
    process = torchrun(program=script)
    said = sorted(process.communicate(timeout=60)[0].splitlines())
    assert said == ["0: True 1", "1: True 1"]


def test_a_signal_stops_all_ranks_after_a_checkpoint(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG)
    process = torchrun("--config-file", config, f"output_dir={tmp_path}")
    folder, _ = under_way(tmp_path, process, 3)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[0]
    assert said.count(f"stopped by SIGTERM; resume with --resume {folder}") == 1, said
    assert "error:" not in said


@pytest.mark.parametrize("every", [0, 2])
def test_after_an_evaluation_that_fails_ranks_make_the_next_run(tmp_path, monkeypatch, every):
    """As in a sweep: rank 0 alone evaluates, and all must hear that the run is over."""
    here, evaluations = threading.local(), []

    @contextlib.contextmanager
    def joined():
        yield here.ranks

    def evaluated(*arguments, **options):
        evaluations.append(arguments)
        if len(evaluations) == 1:
            raise DivergenceError("the environment's state is not finite")
        return evaluate_actor(*arguments, **options)

    monkeypatch.setattr("mbrl.runner.joined", joined)
    monkeypatch.setattr("mbrl.runner.evaluate_actor", evaluated)

    def job(ranks):
        here.ranks = ranks
        with pytest.raises(DivergenceError, match="not finite" if ranks.leads else "another rank"):
            mbrl.run(tiny_config(tmp_path, evaluation={"episodes": 1, "every": every}))
        return mbrl.run(tiny_config(tmp_path, seed=1, evaluation={"episodes": 1, "every": every}))

    first, second = on_ranks(2, job)
    assert first == second
    assert first.summary["seed"] == 1


def test_a_signal_while_ranks_agree_counts_the_next_time(tmp_path, monkeypatch):
    """Otherwise the rank that got it would leave, and the others go on and find it lost."""

    class Asked(Ranks):
        def __init__(self):
            self.answers = []

        def any(self, flag):
            self.answers.append(flag)
            if len(self.answers) == 2:
                signal.raise_signal(signal.SIGTERM)
            return flag

    asked = Asked()
    monkeypatch.setattr("mbrl.runner.joined", lambda: contextlib.nullcontext(asked))
    with pytest.raises(Interrupted):
        mbrl.run(tiny_config(tmp_path))
    assert asked.answers == [False, False, True]


def test_algorithms_of_one_process_say_so():
    config = mbrl.load_config("configs/omd_tabular_returns.yaml")
    with pytest.raises(ConfigError, match=r"omd_tabular runs in one process.*policy_gradient"):
        made_algorithm(config, None, torch.Generator(), ranks=Two())


def test_other_modes_are_of_one_process(monkeypatch, capsys):
    monkeypatch.setattr("mbrl.cli.launched", lambda: True)
    file = "configs/inverted_pendulum.yaml"
    assert main(["--config-file", file, "--mode", "graph"]) == 2
    assert "torchrun has no effect here: goes with --mode train" in capsys.readouterr().err
