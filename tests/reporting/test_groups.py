"""Which runs belong together, and their curves."""

import numpy as np
import pytest

from mbrl.errors import ConfigError
from mbrl.reporting import RunRecord, curve, grouped, mean_interval
from tests.reporting.recorded import CONFIG, curves, folder


def algorithm(**changes):
    return {"algorithm": {**CONFIG["algorithm"], **changes}}


def read(*paths):
    return [RunRecord.read(path) for path in paths]


def test_seeds_of_one_configuration_are_a_group(tmp_path):
    same = [
        folder(tmp_path / str(seed), seed=seed, threads=seed, output_dir=f"o{seed}")
        for seed in (1, 2, 3)
    ]
    other = folder(tmp_path / "other", seed=1, **algorithm(updates=9))
    first, second = grouped(read(same[0], other, *same[1:]))
    assert [run.config["seed"] for run in first.runs] == [1, 2, 3]
    assert [run.config["seed"] for run in second.runs] == [1]
    assert (first.label, second.label) == ("made updates=3", "made updates=9")


def test_a_seed_that_comes_again_counts_for_itself(tmp_path):
    runs = [folder(tmp_path / name, seed=seed) for name, seed in (("a", 1), ("b", 2), ("c", 1))]
    first, second = grouped(read(*runs))
    assert [run.path.name for run in first.runs] == ["a", "b"]
    assert [run.path.name for run in second.runs] == ["c"]
    assert first.label != second.label
    assert second.label == "made c"


def test_runs_of_several_seeds_are_independent_if_they_share_none(tmp_path):
    several = algorithm(seeds=3)
    names = (("a", 0), ("b", 2), ("c", 3), ("d", 5))
    runs = [folder(tmp_path / name, seed=seed, **several) for name, seed in names]
    (alone,) = grouped(read(*runs))
    assert len(alone.runs) == 4, "nothing says that they have several seeds, as some have not"
    for path, (_, seed) in zip(runs, names, strict=True):
        columns = [f"return_{s}" for s in range(seed, seed + 3)]
        row = ",".join("1" for _ in range(5))
        (path / "metrics.csv").write_text(f"update,return_mean,{','.join(columns)}\n{row}\n")
    first, second = grouped(read(*runs))
    assert [run.path.name for run in first.runs] == ["a", "c"]
    assert [run.path.name for run in second.runs] == ["b", "d"]


def test_the_interval_of_a_run_of_several_seeds_is_over_them(tmp_path):
    path = folder(tmp_path / "a", seed=4, **algorithm(seeds=2))
    (path / "metrics.csv").write_text(
        "update,return_mean,loss,return_4,return_5\n1,2,7,1,3\n2,5,7,4,6\n"
    )
    (group,) = grouped(read(path))
    found = curve(group, "return_mean")
    assert found.label.endswith("(2 seeds)")
    mean, low, high = mean_interval(np.array([[1.0, 4.0], [3.0, 6.0]]))
    for ours, wanted in zip((found.mean, found.low, found.high), (mean, low, high), strict=True):
        np.testing.assert_allclose(ours, wanted)
    assert "seeds" not in curve(group, "loss").label


def test_configurations_are_named_by_what_tells_them_apart(tmp_path):
    optimizer = CONFIG["algorithm"]["optimizer"]
    runs = [
        folder(tmp_path / "a"),
        folder(tmp_path / "b", **algorithm(optimizer={**optimizer, "lr": 0.2})),
        folder(tmp_path / "c", name="alone"),
    ]
    assert [g.label for g in grouped(read(*runs))] == ["made lr=0.1", "made lr=0.2", "alone"]


def test_keys_written_by_hand_may_be_numbers(tmp_path):
    mixed = {"task_args": {1: "a", "b": {2: [{3: 4, "c": 5}]}}}
    paths = [folder(tmp_path / str(seed), seed=seed, **mixed) for seed in (1, 2)]
    other = folder(tmp_path / "other", task_args={1: "a", "b": {2: 0}})
    first, second = grouped(read(*paths, other))
    assert len(first.runs) == 2
    assert (first.label, second.label) == (
        "made 2=[{3: 4, 'c': 5}]",
        "made 2=0",
    )


def test_a_run_given_twice_is_refused(tmp_path):
    path = folder(tmp_path / "a")
    with pytest.raises(ConfigError, match=r"--run: .* is given twice"):
        grouped(read(path, path / ".." / "a"))


def test_curves_of_seeds_are_their_mean_up_to_where_all_have_come(tmp_path):
    first = folder(tmp_path / "a", curves([1.0, 2.0, 9.0], steps=10), seed=0)
    second = folder(tmp_path / "b", curves([3.0, 6.0], steps=20), seed=1)
    unbegun = folder(tmp_path / "c", seed=2)
    (group,) = grouped(read(first, second, unbegun))
    found = curve(group, "return_mean")
    np.testing.assert_array_equal(found.x, [1, 2])
    np.testing.assert_array_equal(found.mean, [2, 4])
    # Deviations sqrt(2) and sqrt(8), over sqrt(2): 1 and 2 times the quantile of one freedom.
    np.testing.assert_allclose(found.high - found.mean, 12.7062 * np.array([1, 2]), rtol=1e-5)
    np.testing.assert_allclose(found.mean - found.low, 12.7062 * np.array([1, 2]), rtol=1e-5)
    assert found.label == "made (2 seeds)"
    np.testing.assert_array_equal(curve(group, "return_mean", "env_steps").x, [15, 30])
    assert curve(group, "loss") is None


def test_one_run_is_its_own_curve(tmp_path):
    path = folder(tmp_path / "a", curves([1.0, float("nan"), 3.0]))
    (group,) = grouped(read(path))
    found = curve(group, "return_mean")
    np.testing.assert_array_equal(found.mean, [1, np.nan, 3])
    np.testing.assert_array_equal(found.low, found.high)
    assert found.label == "made"


def test_long_curves_keep_their_ends(tmp_path):
    path = folder(tmp_path / "a", curves([float(i) for i in range(5000)]))
    (group,) = grouped(read(path))
    found = curve(group, "return_mean")
    assert len(found.x) == 400
    assert (found.x[0], found.x[-1]) == (1, 5000)
    np.testing.assert_array_equal(found.mean, found.x - 1)
