"""``--mode report``: one page of runs."""

import os

import pytest

from tests.tiny import command, refused, train, write_tiny


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def test_one_run(capsys, tmp_path):
    path = train(capsys, write_tiny(tmp_path))
    done = command(capsys, "--mode", "report", "--run", path)
    assert (done.code, done.out, done.err) == (0, f"report={path}/report.html\n", "")
    assert "SmoothInvertedPendulum" in (path / "report.html").read_text()


def test_several_runs_however_they_are_named(capsys, tmp_path):
    file = write_tiny(tmp_path)
    paths = [train(capsys, file, f"seed={seed}") for seed in range(3)]
    page = tmp_path / "page.html"
    for runs in (["--run", *paths], [x for path in paths for x in ("--run", path)]):
        done = command(capsys, "--mode", "report", *runs, f"report.file={page}")
        assert (done.code, done.out) == (0, f"report={page}\n")
        text = page.read_text()
        assert all(path.name in text for path in paths)
        assert "95 % interval" in text
        page.unlink()


def test_mistakes_are_named(capsys, tmp_path):
    path = train(capsys, write_tiny(tmp_path))
    refused(command(capsys, "--mode", "report"), "--mode report needs --run DIR")
    refused(command(capsys, "--mode", "report", "--run", tmp_path), "is not the folder of a run")
    refused(command(capsys, "--mode", "report", "--run", path, path), "is given twice")
    refused(
        command(capsys, "--mode", "report", "--run", path, "report.flie=x"),
        "unknown key 'report.flie'", "did you mean 'file'?",
    )  # fmt: skip
    refused(command(capsys, "--mode", "report", "--run", path, "seed=1"), "'seed=1'")
    refused(command(capsys, "--run", path), "--run has no effect here", "report")
    assert not (path / "report.html").exists()
