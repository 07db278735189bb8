"""The windows of a dashboard."""

from pathlib import Path

import numpy as np

from mbrl.monitoring import Picture
from mbrl.monitoring.board import Board, Image, Text


def named(windows):
    return {window.title: window for window in windows}


def row(update, **values):
    return {"update": update, "env_steps": 10 * update, "wall_s": 0.1, **values}


def test_columns_are_curves_over_updates():
    board = Board()
    for update in (1, 2, 3):
        board.write(row(update, return_mean=update**2, loss=-update))
    found = named(board.changed())
    assert set(found) == {"return_mean", "loss"}
    curve = found["return_mean"]
    np.testing.assert_array_equal(curve.x, [1, 2, 3])
    np.testing.assert_array_equal(curve.y, [[1], [4], [9]])
    assert (curve.x_label, curve.legend) == ("update", ("return_mean",))


def test_only_what_has_changed_is_shown_again():
    board = Board()
    board.write(row(1, loss=1.0))
    board.tell("summary", "{}")
    assert set(named(board.changed())) == {"loss", "summary"}
    assert board.changed() == []
    board.write(row(2, loss=2.0))
    (curve,) = board.changed()
    np.testing.assert_array_equal(curve.x, [1, 2])


def test_diagnostics_by_their_shape():
    board = Board()
    steps = np.arange(6.0).reshape(3, 2)
    for update in (1, 2):
        found = {"share": np.array(update / 4), "norm": steps[:, 0], "mean": update * steps}
        board.diagnose(update, found)
    windows = named(board.changed())
    np.testing.assert_array_equal(windows["share"].y, [[0.25], [0.5]])
    np.testing.assert_array_equal(windows["norm"].y, [[0], [2], [4]])
    np.testing.assert_array_equal(windows["norm"].x, [0, 1, 2])
    np.testing.assert_array_equal(windows["mean"].y, 2 * steps)  # the last
    assert windows["mean"].legend == ("0", "1")
    assert windows["norm"].x_label == "step of a rollout"


def test_pictures_and_texts_take_the_place_of_their_namesakes():
    board = Board()
    for update in (1, 2):
        board.show(Picture("video", Path(f"{update}.mp4"), update))
        board.tell("summary", str(update))
    assert board.changed() == [
        Image("video", Path("2.mp4"), "after update 2"),
        Text("summary", "2"),
    ]


def test_what_json_cannot_say_is_no_number():
    board = Board()
    for update, value in enumerate((1.0, np.inf, -np.inf, np.nan), start=1):
        board.write(row(update, loss=value))
    board.diagnose(4, {"norm": np.array([np.inf, 2.0])})
    found = named(board.changed())
    np.testing.assert_array_equal(found["loss"].y[:, 0], [1, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(found["norm"].y[:, 0], [np.nan, 2.0])


def test_long_curves_are_thinned_out_but_keep_both_ends():
    board, count = Board(), 50_123
    for update in range(1, count + 1):
        board.write(row(update, loss=2.0 * update))
    (curve,) = board.changed()
    assert 1000 <= len(curve.x) <= 2002
    assert (curve.x[0], curve.x[-1]) == (1, count)
    np.testing.assert_array_equal(curve.y[:, 0], 2 * curve.x)
    gaps = np.diff(curve.x)[:-1]
    assert (gaps == gaps[0]).all()


def test_the_past_of_a_resumed_run_is_shown_too():
    past = {"update": np.array([1.0, 2.0]), "wall_s": np.zeros(2), "loss": np.array([5.0, 6.0])}
    board = Board(past)
    board.write(row(3, loss=7.0))
    (curve,) = board.changed()
    np.testing.assert_array_equal(curve.x, [1, 2, 3])
    np.testing.assert_array_equal(curve.y[:, 0], [5, 6, 7])


def test_what_matters_most_comes_first():
    board = Board()
    board.show(Picture("graph", Path("graph.png"), 0))
    board.tell("configuration", "seed: 0")
    board.write(row(1, horizon=80, return_mean=1.0, gradient_norm=1.0))
    board.tell("video", "none yet")
    titles = [window.title for window in board.changed()]
    assert titles == ["return_mean", "video", "configuration", "graph", "gradient_norm", "horizon"]
