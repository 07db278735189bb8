"""``--mode landscape``: finished runs, their pictures and data."""

import copy
import json
import os
import signal
import time

import matplotlib.image
import numpy as np
import pytest
import torch
import yaml

import mbrl
from mbrl import finished_runs
from mbrl.graph import build_graph
from tests.planning.problems import PARTICLE
from tests.tiny import command, refused, stored, train, write_tiny

PARTICLE_TASK = {
    "max_episode_steps": 6,
    "reset": {"joints": {"x": 0.05, "y": -0.02}},
    "cost": {
        "x": {"residual": {"kind": "joint_position", "joint": "x"}, "weight": 5.0},
        "vy": {"residual": {"kind": "joint_velocity", "joint": "y"}, "weight": 0.2},
        "y": {"residual": {"kind": "joint_position", "joint": "y"}, "weight": 1.0},
        "effort": {"residual": {"kind": "control"}, "weight": 0.1},
    },
}


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def particle(tmp_path):
    """Write a configuration that plans for a point mass."""
    (tmp_path / "particle.xml").write_text(PARTICLE)

    def write(**algorithm):
        content = {
            "task": "mbrl/Residual-v0",
            "task_args": {"model": str(tmp_path / "particle.xml"), **PARTICLE_TASK},
            "algorithm": algorithm,
            "evaluation": {"episodes": 1},
            "threads": 1,
            "output_dir": str(tmp_path / "outputs"),
        }
        file = tmp_path / "particle.yaml"
        file.write_text(yaml.safe_dump(content))
        return file

    return write


def landscape(capsys, path, *options):
    done = command(capsys, "--mode", "landscape", "--run", path, *options)
    assert done.code == 0, done.err
    assert done.out == f"landscape={path}/plots/landscape.png run_dir={path}\n"
    assert matplotlib.image.imread(path / "plots" / "landscape.png").shape[1] > 800
    return archive(path)


def archive(path):
    with np.load(path / "plots" / "landscape.npz", allow_pickle=False) as content:
        return dict(content)


def test_a_trajectory_of_a_point_mass_is_its_quadratic(capsys, particle):
    """Semi-implicit Euler of a unit mass: v' = v + h u, x' = x + h v', and squares of them."""
    file = particle(kind="trajectory_optimization", horizon=6, updates=20)
    path = train(capsys, file)
    found = landscape(capsys, path, "landscape.points=7", "landscape.span=0.1")
    h, weights = 0.1, {"x": (5.0, 0.0), "y": (1.0, 0.2)}

    def cost(actions):
        total = 0.5 * 0.1 * float((actions**2).sum())
        for axis, x in ((0, 0.05), (1, -0.02)):
            v, (wx, wv) = 0.0, weights["xy"[axis]]
            for u in actions[:, axis]:
                v += h * u
                x += h * v
                total += 0.5 * (wx * x**2 + wv * v**2)
        return total

    d1, d2 = found["directions"]
    assert json.loads(str(found["layout"])) == {"actions": [6, 1, 2]}
    for j, i in np.ndindex(7, 7):
        actions = found["solution"] + found["alpha"][i] * d1 + found["beta"][j] * d2
        assert np.abs(actions).max() < 1
        assert found["losses"][j, i] == pytest.approx(cost(actions.reshape(6, 2)), rel=1e-9)
    assert found["losses"].argmin() == 24
    assert found["losses"][3, 3] == pytest.approx(float(found["loss"]), rel=1e-14)


def test_points_of_a_policy_are_its_losses(capsys, tmp_path):
    """Recomputed with a graph of our own, from the weights of the checkpoint."""
    policy = {"kind": "deterministic_mlp", "hidden": [8]}
    changes = {"graph": {"nodes": {"policy": policy}}, "task_args": {"reset_noise_scale": 0}}
    path = train(capsys, write_tiny(tmp_path, **changes))
    found = landscape(capsys, path, "landscape.points=5", "landscape.batch=3")
    config = mbrl.load_config(path / "config.yaml")
    task = mbrl.make_task(config.task, threads=1, **config.task_args)
    graph = build_graph(config.graph, task)
    graph.load_state_dict(stored(path)["algorithm"]["graph"])
    state = task.reset(1, torch.Generator())  # all episodes begin alike
    for j, i in ((2, 2), (0, 4), (3, 1)):
        twin, at = copy.deepcopy(graph), 0
        moved = found["alpha"][i] * found["directions"][0]
        moved = moved + found["beta"][j] * found["directions"][1]
        with torch.no_grad():
            named = dict(twin.named_parameters())
            for name, shape in json.loads(str(found["layout"])).items():
                size = int(np.prod(shape))
                step = torch.from_numpy(moved[at : at + size]).reshape(shape)
                named[name].copy_(named[name].double() + step)
                at += size
            expected = -float(twin.unroll(state, 5).rewards.sum())
        assert found["losses"][j, i] == pytest.approx(expected, rel=1e-6)
    assert found["losses"][2, 2] == pytest.approx(float(found["loss"]), rel=1e-6)


def test_the_same_seed_gives_the_same_bits(capsys, tmp_path):
    path = train(capsys, write_tiny(tmp_path))
    options = ("landscape.points=4", "landscape.directions=principal", "landscape.samples=3")
    first, again = (landscape(capsys, path, *options) for _ in range(2))
    assert all((first[name] == again[name]).all() for name in first)
    assert sorted(p.name for p in (path / "plots").iterdir()) == [
        "landscape.npz",
        "landscape.png",
    ]
    other = landscape(capsys, path, *options, "landscape.seed=1")
    assert (other["losses"] != first["losses"]).all()
    assert json.loads(str(other["options"]))["seed"] == 1


@pytest.mark.slow
def test_ten_thousand_rollouts_of_a_pendulum_in_a_minute_of_two_cores(capsys, tmp_path):
    """Of 50 steps, from four starts each: two million steps of the physics."""
    policy = {"kind": "deterministic_mlp", "hidden": [32, 32]}
    algorithm = {"kind": "policy_gradient", "updates": 1, "horizon": 50, "batch": 4}
    changes = {"graph": {"nodes": {"policy": policy}}, "algorithm": algorithm, "threads": 2}
    path = train(capsys, write_tiny(tmp_path, **changes))
    began = time.process_time()  # of all threads, whoever else wants the cores
    assert landscape(capsys, path)["losses"].shape == (100, 100)
    assert time.process_time() - began < 120


def test_the_horizon_is_that_of_the_algorithm(capsys, tmp_path):
    path = train(capsys, write_tiny(tmp_path))
    long = landscape(capsys, path, "landscape.points=2")
    short = landscape(capsys, path, "landscape.points=2", "algorithm.horizon=1")
    assert short["loss"] != long["loss"]
    assert (short["solution"] == long["solution"]).all()


def test_which_checkpoint(capsys, tmp_path):
    path = train(capsys, write_tiny(tmp_path), "evaluation.policy=best", "evaluation.every=1")
    assert stored(path, "best")["update"] < stored(path)["update"]
    best, named, latest = (
        landscape(capsys, path, "landscape.points=2", *more)
        for more in ((), ("landscape.policy=best",), ("landscape.policy=latest",))
    )
    assert (best["solution"] == named["solution"]).all()
    assert (best["solution"] != latest["solution"]).any()


def test_several_runs(capsys, tmp_path):
    file = write_tiny(tmp_path)
    paths = [train(capsys, file, f"seed={seed}") for seed in range(2)]
    done = command(capsys, "--mode", "landscape", "landscape.points=2", "--run", *paths)
    assert done.out.splitlines() == [
        f"landscape={path}/plots/landscape.png run_dir={path}" for path in paths
    ]
    assert "point 4/4" in done.err


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("where", ["surface", "draw_surface"])
def test_a_signal_leaves_nothing_half_written(capsys, tmp_path, monkeypatch, where, signum, code):
    path = train(capsys, write_tiny(tmp_path))
    function = getattr(finished_runs, where)

    def stopped(*arguments, **options):
        result = function(*arguments, **options)
        os.kill(os.getpid(), signum)
        return result

    with monkeypatch.context() as patch:
        patch.setattr(finished_runs, where, stopped)
        done = command(capsys, "--mode", "landscape", "--run", path, "landscape.points=2")
    assert (done.code, done.out) == (code, "")
    assert [p for p in path.rglob("*landscape*") if p.is_file()] == []


def test_errors(capsys, tmp_path, particle):
    path = train(capsys, write_tiny(tmp_path))
    for options, words in (
        (["landscape.pionts=3"], ["landscape.pionts", "did you mean 'points'?"]),
        (["landscape.points=few"], ["landscape.points must be an integer, got 'few'"]),
        (["landscape.points=1"], ["landscape.points must lie in [2, 2000], got 1"]),
        (["landscape.directions=principle"], ["'principle'", "did you mean 'principal'?"]),
        (["landscape=3"], ["landscape must be a mapping"]),
        (["algorithm.horizen=3"], ["algorithm.horizen", "did you mean 'horizon'?"]),
    ):
        refused(command(capsys, "--mode", "landscape", "--run", path, *options), *words)
    refused(command(capsys, "--mode", "landscape"), "--mode landscape needs --run DIR")
    refused(command(capsys, "--mode", "landscape", "--run", tmp_path), "no config.yaml")
    (path / "checkpoints" / "latest.pt").write_bytes(b"")
    (path / "checkpoints" / "latest.previous.pt").unlink()
    refused(command(capsys, "--mode", "landscape", "--run", path), "no usable checkpoint")
    mpc = train(capsys, particle(kind="mpc", horizon=3, updates=1))
    refused(
        command(capsys, "--mode", "landscape", "--run", mpc),
        "'mpc'", "legal: runs of policy_gradient, trajectory_optimization",
    )  # fmt: skip
    plan = train(capsys, particle(kind="trajectory_optimization", horizon=3, updates=1))
    refused(
        command(capsys, "--mode", "landscape", "--run", plan, "landscape.batch=2"),
        "landscape.batch", "legal: null",
    )  # fmt: skip
