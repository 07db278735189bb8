"""One stream, many sinks."""

from pathlib import Path

import numpy as np
import pytest

from mbrl.monitoring import Dispensable, MetricStream, Picture, Sink

ROW = {"update": 1, "return_mean": 2.0}
FOUND = {"action_mean": np.zeros((3, 1))}
PICTURE = Picture("graph", Path("graph.png"), 0)
SAID = [
    ("write", ROW),
    ("diagnose", 1, FOUND),
    ("show", PICTURE),
    ("tell", "summary", "{}"),
    ("close",),
]


class Noted(Sink):
    """Notes what it is told; ``error`` says what raises."""

    def __init__(self, error=None):
        self.told, self.error = [], error

    def note(self, *told):
        self.told.append(told)
        if told[0] == self.error:
            raise OSError(f"{self.error}: full")

    def write(self, row):
        self.note("write", row)

    def diagnose(self, update, found):
        self.note("diagnose", update, found)

    def show(self, picture):
        self.note("show", picture)

    def tell(self, name, text):
        self.note("tell", name, text)

    def close(self):
        self.note("close")


def say_everything(sink):
    for name, *arguments in SAID:
        getattr(sink, name)(*arguments)


def test_a_stream_hands_everything_to_every_sink():
    sinks = [Noted(), Noted()]
    say_everything(MetricStream(sinks))
    assert [sink.told for sink in sinks] == [SAID, SAID]


def test_a_sink_that_fails_to_close_does_not_keep_the_others_open():
    sinks = [Noted("close"), Noted()]
    with pytest.raises(OSError, match="full"):
        MetricStream(sinks).close()
    assert sinks[1].told == [("close",)]


@pytest.mark.parametrize("attribute", ["wants_diagnostics", "wants_pictures"])
def test_what_one_sink_wants_the_stream_wants(attribute):
    wanting = Noted()
    setattr(wanting, attribute, True)
    assert not getattr(MetricStream([Noted(), Noted()]), attribute)
    assert getattr(MetricStream([Noted(), wanting]), attribute)
    assert getattr(MetricStream([Dispensable("it", lambda: wanting, print)]), attribute)


def test_a_sink_hears_everything_through_its_guard():
    sink, warnings = Noted(), []
    say_everything(Dispensable("it", lambda: sink, warnings.append))
    assert (sink.told, warnings) == (SAID, [])


@pytest.mark.parametrize("count", range(1, 6))
def test_the_first_failure_of_a_dispensable_sink_is_said_and_is_the_last(count):
    failing = SAID[count - 1][0]
    sink, warnings = Noted(failing), []
    guard = Dispensable("it", lambda: sink, warnings.append)
    say_everything(guard)
    say_everything(guard)
    assert sink.told[:count] == SAID[:count]
    assert len(sink.told) == count
    assert warnings == [f"no more it in this run: {failing}: full"]


def test_a_dispensable_sink_may_fail_to_be_made():
    def make():
        raise ImportError("no module")

    warnings = []
    guard = Dispensable("it", make, warnings.append)
    say_everything(guard)
    assert warnings == ["no more it in this run: no module"]
    assert not guard.wants_pictures
