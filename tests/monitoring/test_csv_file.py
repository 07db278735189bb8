"""metrics.csv."""

import math

import numpy as np
import pytest

from mbrl.errors import StorageError
from mbrl.monitoring import CsvFile, read_metrics


def written(path, *updates, keep=0):
    sink = CsvFile(path, keep=keep)
    for update in updates:
        sink.write({"update": update, "env_steps": 10 * update, "wall_s": 0.1 * update})
    sink.close()
    return path.read_text()


def updates(path):
    return [line.split(",")[0] for line in path.read_text().splitlines()[1:]]


def test_header_and_rows(tmp_path):
    text = written(tmp_path / "m.csv", 1, 2)
    assert text == "update,env_steps,wall_s\n1,10,0.1\n2,20,0.2\n"


def test_without_rows_the_file_is_there_and_empty(tmp_path):
    assert written(tmp_path / "m.csv") == ""


def test_rows_are_flushed_as_they_come(tmp_path):
    sink = CsvFile(tmp_path / "m.csv")
    sink.write({"update": 1})
    assert (tmp_path / "m.csv").read_text() == "update\n1\n"
    sink.close()


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e-300, -2.5e20, 2.0**60, 1e300, math.pi, -0.25])
def test_numbers_round_trip(tmp_path, value):
    sink = CsvFile(tmp_path / "m.csv")
    sink.write({"update": 1, "x": value})
    sink.close()
    assert float((tmp_path / "m.csv").read_text().splitlines()[1].split(",")[1]) == value


def test_integers_are_written_as_integers_and_the_rest_is_named(tmp_path):
    sink = CsvFile(tmp_path / "m.csv")
    sink.write({"update": 1.0, "a": 3, "b": math.nan, "c": math.inf, "d": -math.inf, "e": 0.0})
    sink.close()
    assert (tmp_path / "m.csv").read_text().splitlines()[1] == "1,3,nan,inf,-inf,0"


def test_a_resumed_file_continues_after_the_checkpoint(tmp_path):
    path = tmp_path / "m.csv"
    written(path, 1, 2, 3, 4)
    written(path, 3, 4, 5, keep=2)
    assert updates(path) == ["1", "2", "3", "4", "5"]
    assert path.read_text().count("update") == 1


def test_a_new_run_keeps_nothing_of_an_old_file(tmp_path):
    path = tmp_path / "m.csv"
    written(path, 1, 2)
    sink = CsvFile(path)
    sink.write({"update": 1, "other": 2})
    sink.close()
    assert path.read_text() == "update,other\n1,2\n"


def test_a_row_torn_anywhere_is_dropped(tmp_path):
    path = tmp_path / "m.csv"
    whole = written(path, *range(1, 13))
    last = whole.splitlines()[-1]
    for cut in range(len(last)):
        path.write_text(whole[: len(whole) - 1 - len(last) + cut])
        written(path, 11, 12, keep=10)  # "1" of "12,..." is not row 1
        assert path.read_text() == whole


def test_rubbish_at_the_end_is_dropped(tmp_path):
    path = tmp_path / "m.csv"
    whole = written(path, 1, 2)
    path.write_bytes(whole.encode() + b"\x00\x00\xff\xfe")
    written(path, keep=2)
    assert path.read_text() == whole


def test_a_torn_header_is_written_again(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text("update,env_st")
    assert written(path, 1, keep=0) == "update,env_steps,wall_s\n1,10,0.1\n"


def test_columns_keep_their_order_on_resume(tmp_path):
    path = tmp_path / "m.csv"
    written(path, 1)
    sink = CsvFile(path, keep=1)
    sink.write({"wall_s": 0.5, "update": 2, "env_steps": 20})
    sink.close()
    assert path.read_text().splitlines()[-1] == "2,20,0.5"


# Reading


def test_what_was_written_is_read(tmp_path):
    sink = CsvFile(tmp_path / "m.csv")
    values = (0.1 + 0.2, math.nan, -math.inf, 1e300)
    for update, value in enumerate(values, start=1):
        sink.write({"update": update, "loss": value})
    found = read_metrics(tmp_path / "m.csv")  # before it is closed, too
    sink.close()
    assert list(found) == ["update", "loss"]
    np.testing.assert_array_equal(found["update"], [1, 2, 3, 4])
    np.testing.assert_array_equal(found["loss"], values)


def test_where_nothing_was_written_there_are_no_columns(tmp_path):
    assert read_metrics(tmp_path / "m.csv") == {}
    for text in ("", "update,loss\n", "update,loss"):
        (tmp_path / "m.csv").write_text(text)
        assert read_metrics(tmp_path / "m.csv") == {}


def test_a_row_is_read_when_it_is_whole(tmp_path):
    whole = "update,loss\n1,0.5\n2,0.25\n"
    for cut in range(1, len("2,0.25\n") + 1):
        (tmp_path / "m.csv").write_text(whole[:-cut])
        np.testing.assert_array_equal(read_metrics(tmp_path / "m.csv")["loss"], [0.5])


def test_torn_rows_and_what_is_no_number(tmp_path):
    (tmp_path / "m.csv").write_text("update,loss\n1,0.5\n2,\n3\nx,1\n4,0.25\n")
    found = read_metrics(tmp_path / "m.csv")
    np.testing.assert_array_equal(found["update"], [1, 2, 4])
    np.testing.assert_array_equal(found["loss"], [0.5, math.nan, 0.25])


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(StorageError, match="cannot be read: Is a directory"):
        read_metrics(tmp_path)
