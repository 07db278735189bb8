"""The folder that a run leaves behind."""

import errno
import json
import os
import time

import pytest
from omegaconf import OmegaConf

from mbrl.errors import ConfigError
from mbrl.run_folder import RunFolder


@pytest.fixture
def folder(tmp_path):
    return RunFolder.create(tmp_path, "name", 3)


def test_the_name_says_when_and_which_seed(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "strftime", lambda form, *_: form)
    folder = RunFolder.create(tmp_path / "outputs", "pendulum", 7)
    assert folder.path == tmp_path / "outputs" / "pendulum" / "%Y-%m-%d_%H-%M-%S-seed7"
    assert folder.path.is_dir()


def test_never_an_existing_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "strftime", lambda form, *_: "now")
    names = [RunFolder.create(tmp_path, "x", 0).path.name for _ in range(3)]
    assert names == ["now-seed0", "now-seed0-2", "now-seed0-3"]


def test_a_full_second_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "strftime", lambda form, *_: "now")
    for i in range(1, 1000):
        (tmp_path / "x" / (f"now-seed0-{i}" if i > 1 else "now-seed0")).mkdir(parents=True)
    with pytest.raises(ConfigError, match="full of runs of this second"):
        RunFolder.create(tmp_path, "x", 0)


def test_a_root_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"output_dir: cannot create .*file"):
        RunFolder.create(tmp_path / "file", "x", 0)


def test_opening_what_is_no_run_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(ConfigError, match="is not the folder of a run"):
            RunFolder.open(path)


TRICKY = [
    "1e3", "1e-3", "1_000", "0x1F", "1:30", "2024-01-01", "on", "null", "~", "", " x ", "a: b",
    "#", "'", '"', "- a", "\n", "\\", "a\\", ".nan", "inf", "${x}", "\\${x}", "a\\\\${b}", "$${c}",
    "${", "}${", "\u00fc", "\t", "%", "@", "[", "{", "*a", "&a", "!x", "|", ">", "?", "true", "07",
]  # fmt: skip


def test_configurations_survive_being_written_and_read(folder):
    shared = {"again": [0.1, 1e-300, 1e17]}
    config = {
        "strings": TRICKY,
        "keys": {text: i for i, text in enumerate(TRICKY) if "$" not in text},
        "twice": [shared, shared],
        "plain": {"a": None, "b": True, "c": -3, "d": 2**60, "e": []},
    }
    folder.write_config(config)
    assert folder.read_config() == config
    text = (folder.path / "config.yaml").read_text()
    assert OmegaConf.to_container(OmegaConf.create(text), resolve=True) == config
    assert "*" not in text.split("twice")[1].split("plain")[0]  # no aliases


@pytest.mark.parametrize("text", ["[1, 2", "- a\n", "x: ${y}\n", "\x00"])
def test_a_damaged_configuration_is_named(folder, text):
    (folder.path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        RunFolder.open(folder.path).read_config()


def test_a_configuration_is_written_whole_or_not_at_all(folder, monkeypatch):
    folder.write_config({"a": 1})
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        folder.write_config({"a": 2})
    assert folder.read_config() == {"a": 1}


def test_the_rest(folder):
    folder.write_summary({"a": 0.1})
    assert json.loads((folder.path / "summary.json").read_text()) == {"a": 0.1}
    folder.log("one")
    folder.log("two \u00fc")
    lines = (folder.path / "log.txt").read_text(encoding="utf-8").splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == ["one", "two \u00fc"]
    assert folder.plot("a.png").parent.is_dir()
    assert folder.metrics.name == "metrics.csv"
    assert folder.latest.relative_to(folder.path).as_posix() == "checkpoints/latest.pt"
    assert folder.best.relative_to(folder.path).as_posix() == "checkpoints/best.pt"


def test_a_run_is_trained_by_one_process_at_a_time(tmp_path):
    pytest.importorskip("fcntl")  # which Windows has not
    folder = RunFolder.create(tmp_path, "run", 0)
    folder.claim()
    other = RunFolder(folder.path)
    with pytest.raises(ConfigError, match="is being trained by another process"):
        other.claim()
    # A child that was forked has the parent's descriptors, and may live longer.
    child = os.dup(folder._claim)
    folder.release()
    other.claim()
    other.release()
    os.close(child)


def test_where_nothing_can_be_locked_runs_are_trained_all_the_same(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def refused(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refused)
    folder = RunFolder.create(tmp_path, "run", 0)
    folder.claim()
    folder.release()
