"""One stream, many sinks."""

import pytest

from mbrl.monitoring import MetricStream


class Sink:
    def __init__(self, error=None):
        self.rows, self.closed, self.error = [], False, error

    def write(self, row):
        self.rows.append(row)

    def close(self):
        self.closed = True
        if self.error is not None:
            raise self.error


def test_a_stream_hands_every_row_to_every_sink():
    sinks = [Sink(), Sink()]
    stream = MetricStream(sinks)
    stream.write({"update": 1})
    stream.write({"update": 2})
    stream.close()
    for sink in sinks:
        assert sink.rows == [{"update": 1}, {"update": 2}]
        assert sink.closed


def test_a_sink_that_fails_to_close_does_not_keep_the_others_open():
    sinks = [Sink(OSError("full")), Sink()]
    with pytest.raises(OSError, match="full"):
        MetricStream(sinks).close()
    assert sinks[1].closed
