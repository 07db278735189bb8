"""What the pages say to type in passing is understood: configurations, keys, options.

Commands in blocks are run by the tests of their pages. These are those in the text, which may take
hours, and those that want a cluster.
"""

import re
import shlex

import pytest
import torch

import mbrl
from mbrl.finished_runs import made_algorithm
from tests.markdown import ROOT, Page, commands

PAGES = [Page(ROOT / "README.md"), *map(Page, sorted((ROOT / "docs").glob("*.md")))]
INLINE = re.compile(r"`((?:\w+=\S+\s+)*(?:\./run\.sh|python|torchrun)\s[^`]*)`")
STANDS_FOR = {"FILE": "configs/inverted_pendulum.yaml", "seed=S": "seed=0"}


def all_of(page):
    """Return the commands of a page, split."""
    prose = re.sub(r"^```.*?^```$", "", page.text, flags=re.MULTILINE | re.DOTALL)
    passing = [shlex.split(text.replace("\n", " ")) for text in INLINE.findall(prose)]
    return passing + [words for text in page.of("bash") for words in commands(text)]


ALL = [(page.path.name, words) for page in PAGES for words in all_of(page)]
RUNS = [
    (name, words)
    for name, words in ALL
    if "--config-file" in words and {"main.py", "./run.sh"} & {*words} and "--import" not in words
]
MODES = ("train", "graph", "check", "eval", "record", "report", "landscape", "...")
BENCHMARKS = [(n, w) for n, w in ALL if any(word.startswith("benchmarks/") for word in w)]


def named(value):
    return value if isinstance(value, str) else " ".join(value[-2:])


@pytest.mark.parametrize(("page", "words"), RUNS, ids=named)
def test_configurations_and_options_are_known(page, words, monkeypatch):
    monkeypatch.chdir(ROOT)
    file = words[words.index("--config-file") + 1]
    rest = words[next(i for i, word in enumerate(words) if word in ("main.py", "./run.sh")) + 1 :]
    overrides = [word for word in rest if "=" in word and not word.startswith(("hydra.", "hydra/"))]
    options = [word for word in rest if word.startswith("-")]
    assert {*options} <= {"--config-file", "--mode", "--run", "--resume", "-m"}
    assert "--mode" not in options or rest[rest.index("--mode") + 1] in MODES
    if "-m" in words:  # of a sweep the first run is looked at
        overrides = [w if "{" in w else w.partition(",")[0] for w in overrides]
    config = mbrl.load_config(
        STANDS_FOR.get(file, file), [STANDS_FOR.get(word, word) for word in overrides]
    )
    task = mbrl.make_task(config.task, threads=1, **config.task_args)
    made_algorithm(config, task, torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("page", "words"), BENCHMARKS, ids=named)
def test_options_of_benchmarks_exist(page, words):
    (program,) = [word for word in words if word.startswith("benchmarks/")]
    source = (ROOT / program).read_text()
    for word in words:
        assert not word.startswith("--") or f'add_argument("{word}"' in source, word


def test_commands_are_found():
    assert len(RUNS) >= 35
    programs = {word for _, words in BENCHMARKS for word in words}
    named = {name for page in PAGES for name in re.findall(r"benchmarks/\w+\.py", page.text)}
    assert named <= programs
