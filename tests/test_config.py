"""Configurations: loaded, checked, completed."""

import os
import sys

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

import mbrl
from mbrl.config import from_mapping, load_config, sweep
from mbrl.errors import ConfigError
from tests.tiny import TINY, write_tiny

MINIMAL = {"task": "T-v0", "algorithm": {"kind": "policy_gradient"}}


def message(function, *arguments):
    with pytest.raises(ConfigError) as caught:
        function(*arguments)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.fixture
def file(tmp_path):
    return write_tiny(tmp_path)


def test_a_configuration_is_completed(file):
    config = load_config(file)
    assert config.name == "tiny"
    assert config.seed == 0
    assert config.algorithm["optimizer"].kind == "adam"
    assert config.algorithm["updates"] == 4
    assert config.graph["nodes"]["policy"]["hidden"] == (8,)
    assert set(config.graph["nodes"]) == {"observe", "policy", "dynamics", "reward", "terminate"}
    assert config.evaluation.episodes == 2
    assert config.evaluation.every == 0


def test_a_complete_configuration_is_a_fixed_point(file, tmp_path):
    first = load_config(file, ["algorithm.optimizer.lr=1e-5", "eval_task=null", "name='1e3'"])
    assert from_mapping(first.as_dict()) == first
    assert from_mapping(first.as_dict()).as_dict() == first.as_dict()
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(first.as_dict()).replace("1e3", "'1e3'"))
    assert load_config(again) == first


def test_the_shipped_configurations_are_legal(request):
    files = sorted((request.config.rootpath / "configs").glob("*.yaml"))
    assert files
    for shipped in files:
        assert load_config(shipped).name == shipped.stem


OVERRIDES = [
    ("seed=3", "seed", 3),
    ("+seed=3", "seed", 3),
    ("++seed=3", "seed", 3),
    ("threads=null", "threads", None),
    ("algorithm.discount=1", "algorithm.discount", 1.0),
    ("algorithm.optimizer.lr=1e-3", "algorithm.optimizer.lr", 1e-3),
    ("algorithm.optimizer.betas=[0.5,0.9]", "algorithm.optimizer.betas", [0.5, 0.9]),
    ("algorithm.optimizer={kind: sgd}", "algorithm.optimizer.kind", "sgd"),
    ("evaluation.seed=7", "evaluation.seed", 7),
    ("graph.nodes.policy.hidden=[]", "graph.nodes.policy.hidden", []),
    ("graph.nodes.dynamics.centered=true", "graph.nodes.dynamics.centered", True),
    ("task_args.frame_skip=2", "task_args", {"frame_skip": 2}),
    ("~eval_task", "eval_task", None),
    ("name='a b'", "name", "a b"),
]


@pytest.mark.parametrize(("override", "key", "value"), OVERRIDES)
def test_overrides_reach_keys_in_the_file_or_at_their_default(file, override, key, value):
    result = load_config(file, [override]).as_dict()
    for part in key.split("."):
        result = result[part]
    assert result == value
    assert type(result) is type(value)


def test_of_overrides_the_last_wins(file):
    assert load_config(file, ["seed=1", "seed=2", "seed=1"]).seed == 1


MISTAKES = [  # key, value, parts of the message
    ("sede", 1, "unknown key 'sede' ... did you mean 'seed'?"),
    (
        "algorithm.kind",
        "policy_gradent",
        "algorithm.kind: unknown algorithm 'policy_gradent'; legal",
    ),
    ("algorithm.kind", "policy_gradent", "did you mean 'policy_gradient'?"),
    ("algorithm.kind", None, "algorithm.kind: unknown algorithm None; legal: "),
    ("algorithm.kind", ["policy_gradient"], "algorithm.kind: unknown ... ['policy_gradient']"),
    ("algorithm.horizn", 5, "'algorithm.horizn' ... did you mean 'horizon'?"),
    ("algorithm.horizon", "5", "algorithm.horizon must be an integer, got '5'"),
    ("algorithm.horizon", 5.0, "algorithm.horizon must be an integer, got 5.0"),
    ("algorithm.discount", "x", "algorithm.discount must be a finite number, got 'x'"),
    ("algorithm.clip_norm", "x", "algorithm.clip_norm must be a finite number or null, got 'x'"),
    ("algorithm.optimizer.lrr", 1, "'algorithm.optimizer.lrr' ... did you mean 'lr'?"),
    (
        "algorithm.optimizer.kind",
        "adma",
        "algorithm.optimizer.kind: unknown value 'adma' ... 'adam'?",
    ),
    ("algorithm.optimizer.betas", 0.9, "optimizer.betas must be a list of finite numbers, got 0.9"),
    ("algorithm", 3, "algorithm must be a mapping, got 3"),
    ("task", 3, "task must be a string, got 3"),
    ("task", None, "task must be a string, got None"),
    ("task_args", [], "task_args must be a mapping, got []"),
    ("task_args.threads", 3, "task_args.threads is not legal here; say threads"),
    ("eval_task_args.name", "x", "eval_task_args.name is not legal here; say task"),
    ("task_args", {1: 2}, "task_args.1: a key must be a string, got 1"),
    ("task_args", {"x": [{None: 2}]}, "task_args.x[0].None: a key must be a string, got None"),
    ("seed", -1, "seed must lie in [0, 2^31), got -1"),
    ("seed", 2**31, "seed must lie in [0, 2^31), got 2147483648"),
    ("seed", None, "seed must be an integer, got None"),
    ("seed", True, "seed must be an integer, got True"),
    ("threads", 0, "threads must lie in [1, 1024], got 0"),
    ("torch_threads", 0, "torch_threads must lie in [1, 1024], got 0"),
    ("torch_threads", None, "torch_threads must be an integer, got None"),
    ("evaluation.episodes", 0, "evaluation.episodes must be at least 1, got 0"),
    ("evaluation.every", -1, "evaluation.every must not be negative, got -1"),
    ("evaluation.policy", "bets", "evaluation.policy: unknown value 'bets'; legal: best, latest"),
    ("evaluation.evry", 1, "'evaluation.evry' ... did you mean 'every'?"),
    ("checkpoint.every", 0, "checkpoint.every must be at least 1, got 0"),
    ("checkpoint", 10, "checkpoint must be a mapping, got 10"),
    ("name", "a/b", "name must be the name of a folder, without slashes, got 'a/b'"),
    ("name", "..", "name must be the name of a folder, without slashes, got '..'"),
    ("name", "/etc", "name must be the name of a folder, without slashes, got '/etc'"),
    ("name", "a\0b", "name must be the name of a folder"),
    ("output_dir", 3, "output_dir must be a string, got 3"),
    ("imports", "numpy", "imports must be a list of strings, got 'numpy'"),
    ("imports", ["no_such_package"], "cannot import 'no_such_package' ... PYTHONPATH"),
    ("graph", 3, "graph must be a mapping, got 3"),
    ("graph.node", {}, "'graph.node' ... did you mean 'nodes'?"),
    ("graph.nodes.policy.hiden", [3], "'graph.nodes.policy.hiden' ... did you mean 'hidden'?"),
    ("graph.nodes.policy.hidden", [0.5], "graph.nodes.policy.hidden must be a list of integers"),
    ("graph.nodes.policy.kind", "gausian_mlp", "'gausian_mlp' ... did you mean 'gaussian_mlp'?"),
    ("graph.nodes.policy.kind", ["x"], "graph.nodes.policy.kind: unknown node kind ['x']"),
    ("graph.nodes.polcy.hidden", [8], "graph.nodes.polcy has no kind ... did you mean 'policy'?"),
    ("graph", {"base": "empty", "nodes": {"x": {}}}, "graph.nodes.x has no kind; legal: assemble"),
    ("graph.nodes.policy.inputs", ["obs"], "graph.nodes.policy: nothing produces 'obs'"),
    ("graph.carry.state", "nextstate", "graph.carry.state ... did you mean 'next_state'?"),
]


def changed(content, key, value):
    first, _, rest = key.partition(".")
    return {**content, first: changed(content.get(first, {}), rest, value) if rest else value}


@pytest.mark.parametrize(("key", "value", "parts"), MISTAKES)
def test_mistakes_are_named(key, value, parts):
    text = message(from_mapping, changed(MINIMAL, key, value))
    for part in parts.split(" ... "):
        assert part in text


@pytest.mark.parametrize("key", ["task", "algorithm"])
def test_missing_keys_are_named(key):
    content = {k: v for k, v in MINIMAL.items() if k != key}
    assert message(from_mapping, content) == f"missing key '{key}'"


@pytest.mark.parametrize(
    "place",
    [
        {"_target_": "os.mkdir"},
        {"task_args": {"x": {"_target_": "os.mkdir"}}},
        {"task_args": {"x": [1, {"_target_": "os.mkdir"}]}},
        {"graph": {"nodes": {"policy": {"_target_": "os.mkdir"}}}},
        {"algorithm": {"kind": "policy_gradient", "optimizer": {"_partial_": True}}},
    ],
)
def test_a_configuration_names_no_code(tmp_path, place):
    assert "does not name code" in message(from_mapping, {**MINIMAL, **place})
    assert "does not name code" in message(load_config, write_tiny(tmp_path, **place))


def test_an_override_names_no_code(file):
    assert "does not name code" in message(load_config, file, ["task_args._target_=os.mkdir"])


@pytest.mark.parametrize(
    "text", ["[1, 2\n", "a: b: c\n", "x: !!python/name:os.mkdir\n", "\tx: 1\n"]
)
def test_what_is_not_yaml_is_said(tmp_path, text):
    (tmp_path / "x.yaml").write_text(text)
    assert "x.yaml is not YAML: " in message(load_config, tmp_path / "x.yaml")


def test_bytes_that_are_no_text_are_not_yaml(tmp_path):
    (tmp_path / "x.yaml").write_bytes(b"task: \xff\xfe\x00")
    assert "x.yaml is not YAML: " in message(load_config, tmp_path / "x.yaml")


@pytest.mark.parametrize(("text", "kind"), [("", "NoneType"), ("- a\n", "list"), ("3\n", "int")])
def test_a_file_holds_a_mapping(tmp_path, text, kind):
    (tmp_path / "x.yaml").write_text(text)
    assert f"must hold a mapping, got {kind}" in message(load_config, tmp_path / "x.yaml")


def test_files_that_are_not_there(tmp_path):
    assert "no such file" in message(load_config, tmp_path / "x.yaml")
    assert "no such file" in message(load_config, tmp_path)
    (tmp_path / "x.yml").write_text("a: 1")
    assert "must end in .yaml" in message(load_config, tmp_path / "x.yml")


def test_keys_that_occur_twice_are_named(file):
    file.write_text(file.read_text() + "seed: 1\nseed: 2\n")
    assert "duplicate key seed" in message(load_config, file)


def test_interpolations_resolve_or_are_named(tmp_path):
    assert load_config(write_tiny(tmp_path, seed="${checkpoint.every}")).seed == 2
    text = message(load_config, write_tiny(tmp_path, seed="${nothing}"))
    assert "'nothing'" in text
    assert "seed" in text


@pytest.mark.parametrize(
    "override", ["seed=[", "seed=1,2", "~nothing", "a b=1", "seed==", "=1", ""]
)
def test_override_syntax(file, override):
    text = message(load_config, file, [override])
    assert str(file) in text or "unknown key" in text or "must be" in text
    assert "++" not in text


def test_neighbours_by_a_defaults_list(tmp_path):
    (tmp_path / "base.yaml").write_text("seed: 5\nthreads: 3\n")
    file = write_tiny(tmp_path, defaults=["base", "_self_"])
    assert (load_config(file).seed, load_config(file).threads) == (5, 1)
    assert "'none'" in message(load_config, write_tiny(tmp_path, defaults=["none", "_self_"]))
    (tmp_path / "torn.yaml").write_text("seed: [\n")
    torn = write_tiny(tmp_path, defaults=["torn", "_self_"])
    assert "torn.yaml" in message(load_config, torn)


def test_groups_of_neighbours_are_chosen_by_name(tmp_path):
    (tmp_path / "algorithm").mkdir()
    for name, updates in (("short", 1), ("long", 9)):
        text = yaml.safe_dump({**TINY["algorithm"], "updates": updates})
        (tmp_path / "algorithm" / f"{name}.yaml").write_text(text)
    file = write_tiny(tmp_path, algorithm=..., defaults=[{"algorithm": "short"}, "_self_"])
    assert load_config(file).algorithm["updates"] == 1
    assert load_config(file, ["algorithm=long"]).algorithm["updates"] == 9
    assert load_config(file, ["algorithm=long", "algorithm.updates=3"]).algorithm["updates"] == 3


CALLBACK = "{callbacks: {x: {_target_: os.mkdir, path: TRAP}}}"


@pytest.mark.parametrize(
    ("neighbour", "defaults"),
    [
        (f"# @package _global_\nhydra: {CALLBACK}\n", ["other"]),
        (f"hydra: {CALLBACK}\n", ["other@_global_"]),
        ("x: {_target_: os.mkdir, path: TRAP}\n", ["other@hydra.callbacks"]),
        ("# @package hydra.callbacks\nx: {_target_: os.mkdir, path: TRAP}\n", ["other"]),
        ("# @package _global_\nhydra: {job: {env_set: {TRAP: a}}}\n", ["other"]),
        ("# @package hydra\nverbose: true\n", ["other"]),
    ],
)
def test_no_file_configures_hydra(tmp_path, neighbour, defaults):
    """Hydra runs what its callbacks, launchers and loggers name."""
    trap = tmp_path / "executed"
    (tmp_path / "other.yaml").write_text(neighbour.replace("TRAP", str(trap)))
    file = write_tiny(tmp_path, defaults=["_self_", *defaults])
    assert "the key 'hydra' is not allowed" in message(load_config, file)
    if "callbacks" in neighbour:
        assert "the key 'hydra' is not allowed" in message(sweep, file, [], print)
    assert not trap.exists()


def test_the_hydra_section_of_the_file_itself_is_refused(tmp_path):
    file = write_tiny(tmp_path, hydra={"run": {"dir": "x"}})
    assert "the key 'hydra' is not allowed" in message(load_config, file)
    file.write_text("# @package hydra.callbacks.x\n" + write_tiny(tmp_path, "y").read_text())
    assert "the key 'hydra' is not allowed" in message(load_config, file)


def test_a_search_path_is_refused_before_it_is_searched(tmp_path, monkeypatch):
    """Looking for files in a package imports it."""
    (tmp_path / "toy_trap.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    file = write_tiny(tmp_path, hydra={"searchpath": ["pkg://toy_trap"]})
    assert "the key 'hydra' is not allowed" in message(load_config, file)
    assert "toy_trap" not in sys.modules


def test_packages_are_imported_before_their_names_are_looked_up(tmp_path, monkeypatch):
    (tmp_path / "toy_package.py").write_text(
        "import mbrl\n@mbrl.register_algorithm('toy_imported')\nclass Toy:\n"
        "    def __init__(self, setting, *, size: int = 3): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(mbrl.ALGORITHMS, "_entries", dict(mbrl.ALGORITHMS._entries))
    file = write_tiny(tmp_path, algorithm={"kind": "toy_imported"}, imports=["toy_package"])
    config = load_config(file)
    assert config.algorithm == {"kind": "toy_imported", "size": 3}
    assert config.imports == ("toy_package",)
    del sys.modules["toy_package"]


def test_a_package_that_raises_is_named(tmp_path, monkeypatch):
    (tmp_path / "toy_broken.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    text = message(load_config, write_tiny(tmp_path, imports=["toy_broken"]))
    assert "cannot import 'toy_broken' (ZeroDivisionError: division by zero)" in text
    assert text.endswith(f"raised at {tmp_path / 'toy_broken.py'}:1")


def test_a_package_that_cannot_be_parsed_is_named(tmp_path, monkeypatch):
    (tmp_path / "toy_unparsed.py").write_text("import mbrl\nclass\n")
    monkeypatch.syspath_prepend(tmp_path)
    text = message(load_config, write_tiny(tmp_path, imports=["toy_unparsed"]))
    assert text.endswith(f"raised at {tmp_path / 'toy_unparsed.py'}:2")


@pytest.mark.parametrize("name", ["a b", "v1.\u00fc", "a@b=c", "a,b", "1e3", "x[1]", "${x}", "q'"])
def test_any_file_name_will_do(tmp_path, name):
    config = load_config(write_tiny(tmp_path, name), ["seed=4"])
    assert (config.name, config.seed) == (name, 4)


@pytest.mark.parametrize(
    "value", ["/home/j\u00fcrgen/runs", "a~b", "a;b&c", "\u4e2d \u6587:1", "'\u00fc,~'", "plain"]
)
def test_any_value_will_do_on_the_command_line(file, value):
    assert load_config(file, [f"output_dir={value}"]).output_dir == value.strip("'")


def test_a_home_is_found(file, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert load_config(file, ["output_dir=~/runs"]).output_dir == "/home/somebody/runs"
    assert from_mapping({**MINIMAL, "output_dir": "~/a"}).output_dir == "/home/somebody/a"
    assert "output_dir must be a path" in message(from_mapping, {**MINIMAL, "output_dir": "~/\0"})


def test_a_lone_tilde_is_yamls_null(file):
    assert load_config(file, ["eval_task=~"]).eval_task is None


def test_sweeps(tmp_path, file, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    seen = []
    overrides = ["seed=0,1", "algorithm.discount=0.9,1", "graph.nodes.policy.kind=gaussian_mlp"]
    sweep(file, overrides, lambda config: seen.append((config.seed, config.algorithm["discount"])))
    assert seen == [(0, 0.9), (0, 1.0), (1, 0.9), (1, 1.0)]
    assert os.listdir() == []  # Hydra would leave multirun.yaml


def test_a_sweep_ends_with_its_first_failure(file, capfd):
    seen = []

    def job(config):
        seen.append(config.seed)
        raise ConfigError("enough")

    assert message(sweep, file, ["seed=0,1,2"], job) == "enough"
    assert seen == [0]
    assert capfd.readouterr() == ("", "")


def test_a_sweep_over_something_illegal_is_named(file):
    seen = []
    text = message(sweep, file, ["seed=0,x"], lambda config: seen.append(config.seed))
    assert "seed must be an integer, got 'x'" in text
    assert seen == [0]
    assert "no viable" in message(sweep, file, ["seed=["], print)


def test_a_bug_in_a_job_of_a_sweep_is_not_hidden(file):
    def job(config):
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError, match="a bug"):
        sweep(file, ["seed=0"], job)


def test_a_hydra_of_the_caller_is_left_alone(tmp_path, file):
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        load_config(file)
        sweep(file, ["seed=0"], lambda config: None)
        assert compose("tiny").threads == 1
    assert GlobalHydra.instance().hydra is None
