"""Learning curves: the numbers, the picture and the table."""

import csv

import imageio.v2
import numpy as np
import pytest

from benchmarks import learning_curves

HEADER = "update,env_steps,wall_s,return_mean,one_step_error,open_loop_error"


def folder(tmp_path, name, returns, header=HEADER):
    """Write the folder of a run whose iterations take 100 steps, after as many at random."""
    rows = [f"{i + 1},{100 * (i + 2)},{i}.5,{r},{0.5 / (i + 1)},nan" for i, r in enumerate(returns)]
    (tmp_path / name).mkdir()
    (tmp_path / name / "metrics.csv").write_text("".join(f"{x}\n" for x in (header, *rows)))
    return str(tmp_path / name)


def made(tmp_path, *arguments):
    """Return the rows of the file that a command writes."""
    out = tmp_path / "made" / "curve"
    learning_curves.main([*arguments, "--out", str(out)])
    assert sorted(file.name for file in out.parent.iterdir()) == ["curve.csv", "curve.png"]
    with (out.parent / "curve.csv").open(newline="") as file:
        return list(csv.reader(file))


def test_a_row_an_iteration_and_a_column_a_run(tmp_path):
    runs = folder(tmp_path, "a", [1.5, 2.25, 4]), folder(tmp_path, "b", [0.5, 0.75])
    rows = made(tmp_path, *runs)
    assert rows == [
        ["iteration", "a", "b", "mean"],
        ["0", "1.5", "0.5", "1.0"],
        ["1", "2.25", "0.75", "1.5"],
        ["2", "4.0", "", ""],  # one of them has not come so far
    ]
    picture = imageio.v2.imread(tmp_path / "made" / "curve.png")
    assert picture.shape[:2] == (675, 1080)
    assert (picture[..., :3] < 250).any(-1).mean() > 0.01


def test_the_published_curve(tmp_path):
    rows = made(tmp_path, folder(tmp_path, "a", [7]), "--published", "--labels", "mine")
    assert rows[0] == ["iteration", "published", "mine", "mean"]
    assert rows[1] == ["0", "300.0", "7.0", "7.0"]
    assert [row[0] for row in rows[1:]] == [str(i) for i in range(15)]
    published = np.array([float(row[1]) for row in rows[1:]])
    assert (published[2], published[-1], published.max()) == (1205, 1428, 1428)


def test_the_lines_of_the_picture(tmp_path):
    run = learning_curves.run_curve(tmp_path / folder(tmp_path, "a", [1, 2]), "a")
    curves = [learning_curves.published_curve(), run]
    for x, mine, theirs in (
        ("iteration", [0, 1], [0, 14]),
        ("env_steps", [200, 300], [20_000, 160_000]),
    ):
        published, line = learning_curves.figure_of(curves, x).axes[0].get_lines()
        np.testing.assert_array_equal(line.get_xdata(), mine)
        np.testing.assert_array_equal(line.get_ydata(), [1, 2])
        assert [published.get_xdata()[0], published.get_xdata()[-1]] == theirs
        assert published.get_linestyle() == "--"
        assert "read off" in published.get_label()


def test_the_table(tmp_path, capsys):
    made(tmp_path, folder(tmp_path, "long", [1, 2, 3, 10, 5, 6]), folder(tmp_path, "short", [1, 4]))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    # iterations, iteration 2, mean of the last three, best
    assert lines[1] == ["long", "6", "3.0", "7.0", "10.0"]
    assert lines[2] == ["short", "2", "nan", "2.5", "4.0"]
    assert lines[3] == ["mean", "2", "nan", "2.0", "3.0"]
    assert lines[5][-1] == "long"
    assert lines[6] == ["iteration", "one_step_error", "open_loop_error"]
    assert lines[7:9] == [["0", "0.5", "nan"], ["1", "0.25", "nan"]]


def test_a_line_that_is_being_written_is_left_out(tmp_path):
    run = folder(tmp_path, "a", [1, 2])
    whole = (tmp_path / "a" / "metrics.csv").read_text()
    for cut in range(len(whole.splitlines()[-1])):
        (tmp_path / "a" / "metrics.csv").write_text(whole[: -cut - 1])
        assert learning_curves.run_curve(tmp_path / run, "a").returns == [1.0]


def test_what_is_no_run_is_named(tmp_path):
    with pytest.raises(SystemExit, match=r"nothing/metrics\.csv: No such file"):
        learning_curves.main([str(tmp_path / "nothing")])
    with pytest.raises(SystemExit, match="has no iteration yet"):
        learning_curves.main([folder(tmp_path, "new", [])])
    with pytest.raises(SystemExit, match="has no column 'return_mean', only update, loss"):
        learning_curves.main([folder(tmp_path, "other", [], "update,loss\n1,2")])


@pytest.mark.parametrize("labels", [["x", "x"], ["x"], ["x", "mean"]])
def test_labels_are_one_a_run_and_differ(tmp_path, labels, capsys):
    runs = folder(tmp_path, "a", [1]), folder(tmp_path, "b", [1])
    with pytest.raises(SystemExit):
        learning_curves.main([*runs, "--labels", *labels])
    assert "labels" in capsys.readouterr().err.splitlines()[-1]
