"""The dashboard's thread, before clients that are none."""

import threading
import time

import numpy as np
import pytest

from mbrl.monitoring import VisdomOptions
from mbrl.monitoring import visdom as module
from mbrl.monitoring.visdom import Visdom, environment_name

ENABLED = VisdomOptions(enabled=True)


class Shown:
    """A client that keeps windows by their titles."""

    def __init__(self):
        self.windows, self.calls, self.saved = {}, 0, []

    def show(self, window):
        self.calls += 1
        self.windows[window.title] = window

    def save(self):
        self.saved.append(dict(self.windows))


class Stuck(Shown):
    """A client that never comes back from its first window."""

    def __init__(self):
        super().__init__()
        self.entered, self.leave = threading.Event(), threading.Event()

    def show(self, window):
        self.entered.set()
        self.leave.wait(30)


class Dying(Shown):
    """A client whose server dies after some windows."""

    def __init__(self, calls):
        super().__init__()
        self.left = calls

    def show(self, window):
        self.left -= 1
        if self.left < 0:
            raise ConnectionError("gone")
        super().show(window)


def refuse(options, env):
    raise ConnectionError("refused")


@pytest.fixture
def open_sink(tmp_path):
    """Return a function that makes a sink, and lists of what it says."""
    warnings, said = [], []

    def make(connect, options=ENABLED, **more):
        texts = {"warn": warnings.append, "say": said.append}
        return Visdom(options, "env", **texts, store=tmp_path, connect=connect, **more)

    make.warnings, make.said = warnings, said
    return make


def row(update):
    return {"update": update, "loss": float(update)}


def eventually(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_everything_is_shown_by_the_end(open_sink):
    client = Shown()
    sink = open_sink(lambda options, env: client)
    sink.tell("configuration", "seed: 0")
    for update in range(1, 6):
        sink.write(row(update))
        sink.diagnose(update, {"norm": np.full(3, update)})
    sink.close()
    (saved,) = client.saved  # after the last window
    np.testing.assert_array_equal(saved["loss"].x, [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(saved["norm"].y[:, 0], [5, 5, 5])
    assert saved["configuration"].text == "seed: 0"
    assert open_sink.warnings == []
    assert open_sink.said == ["visdom: http://127.0.0.1:8097/env/env"]


def test_it_is_live(open_sink):
    client = Shown()
    sink = open_sink(lambda options, env: client)
    sink.write(row(1))
    eventually(lambda: "loss" in client.windows)
    sink.write(row(2))
    eventually(lambda: len(client.windows["loss"].x) == 2)
    sink.close()


def test_many_updates_are_few_refreshments(open_sink):
    client = Shown()
    sink = open_sink(lambda options, env: client)
    began = time.monotonic()
    for update in range(1, 301):
        sink.write(row(update))
        time.sleep(0.005)
    sink.close()
    # The first, one in two seconds, the last.
    assert client.calls <= (time.monotonic() - began) / 2 + 2
    assert len(client.windows["loss"].x) == 300


def test_nobody_waits_for_a_server_that_hangs(open_sink, monkeypatch):
    monkeypatch.setattr(module, "_FLUSH", 0.3)
    client = Stuck()
    sink = open_sink(lambda options, env: client)
    sink.write(row(0))
    assert client.entered.wait(10)
    began = time.monotonic()
    for update in range(1, 5001):
        sink.write(row(update))
    assert time.monotonic() - began < 1.0
    assert len(sink._waiting) == module._MOST_WAITING
    sink._waiting[0]()  # the oldest that is left
    (curve,) = sink._board.changed()
    assert curve.x[-1] == 5001 - module._MOST_WAITING
    began = time.monotonic()
    sink.close()
    assert time.monotonic() - began < 5
    assert open_sink.warnings == [
        "no more of this run is shown at http://127.0.0.1:8097: it took more than 0.3 s to show "
        "the rest"
    ]
    client.leave.set()
    sink._thread.join(10)
    assert len(open_sink.warnings) == 1


def test_without_a_server_there_is_one_warning(open_sink):
    sink = open_sink(refuse)
    eventually(lambda: open_sink.warnings)
    sink.write(row(1))
    sink.close()
    expected = "this run is not shown at http://127.0.0.1:8097: refused"
    assert open_sink.warnings == [expected]
    assert open_sink.said == []


@pytest.mark.parametrize("calls", [0, 1])
def test_a_server_that_dies_is_one_warning(open_sink, calls):
    sink = open_sink(lambda options, env: Dying(calls))
    for update in range(1, 4):
        sink.write(row(update))
        sink.tell("a", str(update))
        time.sleep(0.6)
    sink.close()
    expected = "no more of this run is shown at http://127.0.0.1:8097: gone"
    assert open_sink.warnings == [expected]


def test_another_machine_is_a_warning(open_sink):
    client = Shown()
    options = VisdomOptions(enabled=True, host="example.org", port=80)
    open_sink(lambda given, env: client, options).close()
    (warning,) = open_sink.warnings
    assert "monitor.visdom.host" in warning
    assert "example.org" in warning
    assert open_sink.said == ["visdom: http://example.org:80/env/env"]


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("192.168.1.5", False),
        ("localhost.example.org", False),
    ],
)
def test_which_hosts_are_this_machine(host, loopback):
    assert VisdomOptions(host=host).is_loopback == loopback


def test_environments_are_named_so_that_urls_and_comparisons_take_them():
    parts = ("inverted pendulum+x/é", "2026-11-21_22-14-10-seed0-2")
    name = environment_name(parts)
    assert name == "inverted-pendulum-x--_2026-11-21_22-14-10-seed0-2"


def test_between_refreshments_nothing_gives_way(tmp_path):
    shown = {}

    class Connection:
        def show(self, window):
            shown[window.title] = window

        def save(self):
            pass

    sink = Visdom(
        VisdomOptions(enabled=True),
        "run",
        warn=print,
        say=print,
        store=tmp_path,
        connect=lambda options, env: Connection(),
    )
    for first in (1, 801, 1601):  # well within the two seconds to the next refreshment
        for update in range(first, first + 800):
            sink.write({"update": update, "loss": 1.0})
        time.sleep(0.4)
    sink.close()
    assert shown["loss"].x[0] == 1
    assert shown["loss"].x[-1] == 2400


class Bare(Shown):
    """A client whose server gets the scripts of its page after some questions; None: never."""

    def __init__(self, questions):
        super().__init__()
        self.left = questions

    def has_page(self):
        self.left = None if self.left is None else self.left - 1
        return self.left is not None and self.left < 0


@pytest.mark.parametrize(("start", "download"), [(True, False), (False, True)])
def test_scripts_that_nobody_here_fetches_are_not_asked_for(
    open_sink, monkeypatch, start, download
):
    monkeypatch.setattr(module.VisdomProcess, "started", lambda options, store: None)
    options = VisdomOptions(enabled=True, start=start, download=download)
    open_sink(lambda given, env: Shown(), options).close()
    assert (open_sink.warnings, len(open_sink.said)) == ([], 1)


def test_where_to_look_is_said_once_there_is_something(open_sink, monkeypatch):
    monkeypatch.setattr(module.VisdomProcess, "started", lambda options, store: None)
    monkeypatch.setattr(module, "_SECONDS_BETWEEN", 0.01)
    client = Bare(2)
    sink = open_sink(lambda given, env: client, VisdomOptions(start=True))
    eventually(lambda: open_sink.said)
    assert client.left == -1  # not before the third answer
    sink.close()
    assert open_sink.said == ["visdom: http://127.0.0.1:8097/env/env"]
    assert open_sink.warnings == []


def test_a_page_without_scripts_is_one_warning(open_sink, monkeypatch):
    monkeypatch.setattr(module.VisdomProcess, "started", lambda options, store: None)
    sink = open_sink(lambda given, env: Bare(None), VisdomOptions(start=True))
    sink.write(row(1))
    sink.close()
    assert open_sink.said == ["visdom: http://127.0.0.1:8097/env/env"]
    (warning,) = open_sink.warnings
    assert warning.startswith("the page at http://127.0.0.1:8097 is empty: its scripts")


def test_the_first_windows_wait_for_curves(open_sink):
    client = Shown()
    sink = open_sink(lambda options, env: client)
    sink.tell("configuration", "seed: 0")
    time.sleep(0.5)
    assert client.windows == {}
    sink.write(row(1))
    eventually(lambda: len(client.windows) == 2)
    assert list(client.windows) == ["configuration", "loss"]
    sink.close()


def test_but_not_for_ever(open_sink, monkeypatch):
    monkeypatch.setattr(module, "_FIRST_ROW", 0.3)
    client = Shown()
    sink = open_sink(lambda options, env: client)
    sink.tell("configuration", "seed: 0")
    eventually(lambda: "configuration" in client.windows)
    sink.close()
