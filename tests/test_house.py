"""The rules of the house: style, types, who may import whom, and the length of files."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAX_LINES = 449
LINT_IMPORTS = "from importlinter.cli import lint_imports_command as run; run()"


def check(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode != 0:
        pytest.fail(done.stdout, pytrace=False)


def test_ruff_check():
    check("-m", "ruff", "check", ".")


def test_ruff_format():
    check("-m", "ruff", "format", "--check", "--diff", ".")


def test_mypy():
    check("-m", "mypy")


def test_imports_run_downward():
    check("-c", LINT_IMPORTS, "--no-logo")


def test_files_are_short():
    files = [
        f for part in ("mbrl", "tests", "benchmarks", "docs") for f in (ROOT / part).rglob("*.py")
    ]
    lengths = {str(f.relative_to(ROOT)): len(f.read_text().splitlines()) for f in files}
    assert {name: n for name, n in lengths.items() if n > MAX_LINES} == {}
