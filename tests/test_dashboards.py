"""Runs with TensorBoard and visdom: what is shown of them, and that it never hurts them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mbrl.config import from_mapping
from mbrl.errors import ConfigError
from mbrl.monitoring.visdom import environment_name
from mbrl.runner import run
from mbrl.signals import Interrupted
from tests.served import answers, eventually, free_port, server, windows
from tests.tiny import hooked_updates, resume, rows, same_runs, tiny_config

ROOT = Path(__file__).parents[1]
UPDATES = [1.0, 2.0, 3.0, 4.0]


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Return the folder of a run that shows nothing."""
    return run(tiny_config(tmp_path_factory.mktemp("reference"))).run_dir


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with server(tmp_path_factory.mktemp("store")) as found:
        yield found


def shown_at(options, **more):
    return {"visdom": {"enabled": True, "port": options.port, "download": False, **more}}


def environment(path):
    return environment_name(path.parts[-2:])


def logged_warnings(path, capfd):
    """Return the warnings of a run, which its log and standard error agree on."""
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("warning: ")]
    log = [line[20:] for line in (path / "log.txt").read_text().splitlines()]
    assert all(line.removeprefix("warning: ") in log for line in said)
    return said


def curve(window):
    (found,) = window["content"]["data"]
    return found["x"], found["y"]


def test_everything_at_once_changes_nothing(served, reference, tmp_path, capfd):
    options, _ = served
    path = run(tiny_config(tmp_path, monitor={"tensorboard": True, **shown_at(options)})).run_dir
    assert logged_warnings(path, capfd) == []
    assert same_runs(path, reference)
    returns = [float(row["return_mean"]) for row in rows(path)]
    found = windows(options, environment(path))
    assert curve(found["return_mean"]) == (UPDATES, returns)
    events = EventAccumulator(str(path / "tensorboard"))
    events.Reload()
    scalars = [(event.step, event.value) for event in events.Scalars("return_mean")]
    assert scalars == [(u, pytest.approx(r)) for u, r in zip(UPDATES, returns, strict=True)]
    assert {"graph"} == set(events.Tags()["images"])
    for name in ("action_gradient_norm", "action_mean", "action_deviation", "action_saturation"):
        (per_step,) = found[name]["content"]["data"]
        assert per_step["x"] == [0, 1, 2, 3, 4]
    updates, shares = curve(found["engine_share"])
    assert updates == UPDATES
    assert all(0 < share < 1 for share in shares)
    assert "data:image/png;base64," in found["graph"]["content"]
    assert "task: mbrl/SmoothInvertedPendulum-v0" in found["configuration"]["content"]
    assert "eval_return_mean" in found["summary"]["content"]


def test_a_resumed_run_is_shown_whole(served, reference, tmp_path, monkeypatch):
    options, _ = served
    hooks = hooked_updates(monkeypatch)
    hooks[3] = lambda algorithm: os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(Interrupted) as caught:
        run(tiny_config(tmp_path, monitor=shown_at(options)))
    path = caught.value.run_dir
    updates, _ = curve(windows(options, environment(path))["return_mean"])
    assert updates == UPDATES[:3]
    resume(path)
    assert same_runs(path, reference)
    found = curve(windows(options, environment(path))["return_mean"])
    assert found == (UPDATES, [float(row["return_mean"]) for row in rows(path)])


def test_without_a_server_the_run_is_unharmed(reference, tmp_path, capfd):
    monitor = {"visdom": {"enabled": True, "port": free_port()}}
    path = run(tiny_config(tmp_path, monitor=monitor)).run_dir
    (warning,) = logged_warnings(path, capfd)
    assert "this run is not shown at http://127.0.0.1:" in warning
    assert same_runs(path, reference)


def test_a_server_that_is_killed_in_mid_run(reference, tmp_path, capfd, monkeypatch):
    hooks = hooked_updates(monkeypatch)
    with server(tmp_path / "store") as (options, process):

        def kill(algorithm):
            env = f"{options.url}/env/"
            eventually(lambda: env in capfd.readouterr().err)  # it is connected
            os.kill(process.pid, signal.SIGKILL)
            eventually(lambda: not answers(options.port))

        hooks[2] = kill
        path = run(tiny_config(tmp_path, monitor=shown_at(options))).run_dir
    (warning,) = logged_warnings(path, capfd)
    assert warning.startswith("warning: no more of this run is shown at http://127.0.0.1:")
    assert same_runs(path, reference)


def test_a_server_of_the_runs_own_ends_with_it(reference, tmp_path, capfd, monkeypatch):
    port, alive = free_port(), []
    hooks = hooked_updates(monkeypatch)
    hooks[3] = lambda algorithm: eventually(lambda: alive.append(answers(port)) or alive[-1])
    monitor = {"visdom": {"start": True, "port": port, "download": False}}
    path = run(tiny_config(tmp_path, monitor=monitor)).run_dir
    assert alive[-1]
    assert not answers(port)
    assert logged_warnings(path, capfd) == []
    assert same_runs(path, reference)
    # What it was told is kept, for a server that is started there later.
    kept = tmp_path / "outputs" / ".visdom" / f"{environment(path)}.json"
    assert '"return_mean"' in kept.read_text()


def test_diagnostics_that_fail_are_no_failure(reference, tmp_path, capfd, monkeypatch):
    def fail(self):
        raise ValueError("no numbers here")

    monkeypatch.setattr("mbrl.algorithms.PolicyGradient.diagnostics", fail)
    monkeypatch.setattr("mbrl.showing._SECONDS_BETWEEN_DIAGNOSES", 0.0)
    found = run(tiny_config(tmp_path, monitor={"tensorboard": True}))
    assert same_runs(found.run_dir, reference)
    said = "warning: no more diagnostics in this run: no numbers here"
    assert capfd.readouterr().err.count(said) == 1


def test_events_that_cannot_be_written_are_no_failure(reference, tmp_path, capfd, monkeypatch):
    from mbrl.monitoring.tensorboard import TensorBoard

    def refuse(self, row):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(TensorBoard, "write", refuse)
    path = run(tiny_config(tmp_path, monitor={"tensorboard": True})).run_dir
    (warning,) = logged_warnings(path, capfd)
    assert "no more TensorBoard in this run: [Errno 28] No space left" in warning
    assert same_runs(path, reference)


IDLE = """
import sys
from mbrl.runner import run
from tests.tiny import tiny_config
from pathlib import Path
run(tiny_config(Path(sys.argv[1])))
print(sorted({name.partition(".")[0] for name in sys.modules} & {"visdom", "tensorboard"}))
"""


def test_nothing_is_imported_that_is_not_asked_for(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", IDLE, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("visdom", "words"),
    [
        ({"strat": True}, r"unknown key 'monitor.visdom.strat'; .* did you mean 'start'"),
        ({"port": 0}, r"monitor.visdom.port must lie in \[1, 65535\], got 0"),
        ({"host": "http://x"}, "monitor.visdom.host must be the name of a machine, got 'http://x'"),
        *(
            (
                {"start": True, "host": host},
                f"monitor.visdom.start: .* at host 127.0.0.1, not at {host}",
            )
            for host in ("x.org", "127.0.0.2", "0.0.0.0")
        ),
    ],
)
def test_mistakes_are_named(visdom, words):
    with pytest.raises(ConfigError, match=f"^{words}"):
        from_mapping({"task": "x", "algorithm": {"kind": "mpc"}, "monitor": {"visdom": visdom}})
