"""Bad input: one line that names it, exit code 2 or an ``MbrlError``, nothing executed or lost."""

import os
import re

import numpy as np
import pytest
import torch
import yaml

import mbrl
from mbrl import checkpoint
from mbrl.config import from_mapping
from mbrl.finished_runs import load_policy, resumed_config
from mbrl.planning import ILQR, make_problem
from mbrl.runner import run
from tests.tiny import TINY, command, refused, runs, stored, tiny_config, write_tiny


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Spare the disk; tests/test_checkpoint.py looks after what is synchronised when."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def changed(content, key, value):
    """A copy of nested mappings with the entry at a dotted key replaced."""
    first, _, rest = key.partition(".")
    return {**content, first: changed(content.get(first, {}), rest, value) if rest else value}


# Values in a file: (key, value, words of the message)

NAN, INF = float("nan"), float("inf")
VALUES = [
    # types, NaN, ranges
    ("algorithm.optimizer.lr", 0, ["algorithm.optimizer.lr must be positive, got 0.0"]),
    ("algorithm.optimizer.lr", -1e-3, ["algorithm.optimizer.lr must be positive, got -0.001"]),
    ("algorithm.optimizer.lr", NAN, ["algorithm.optimizer.lr must be a finite number, got nan"]),
    ("algorithm.optimizer.lr", INF, ["algorithm.optimizer.lr must be a finite number, got inf"]),
    ("algorithm.optimizer.lr", 10**400, ["algorithm.optimizer.lr must be a finite number"]),
    ("algorithm.optimizer.final_lr", -1, ["algorithm.optimizer.final_lr must not be negative"]),
    ("algorithm.optimizer.momentum", -1, ["algorithm.optimizer.momentum must not be negative"]),
    ("algorithm.optimizer.weight_decay", -1, ["algorithm.optimizer.weight_decay", "got -1.0"]),
    ("algorithm.optimizer.betas", [0.9], ["algorithm.optimizer.betas must be two", "[0.9]"]),
    ("algorithm.optimizer.betas", [0, 1], ["algorithm.optimizer.betas", "in [0, 1), got [0.0, 1"]),
    ("algorithm.optimizer.kind", "adamw", ["algorithm.optimizer.kind", "'adamw'", "adam, sgd"]),
    ("algorithm.optimizer", None, ["algorithm.optimizer must be a mapping, got None"]),
    ("algorithm.discount", 2, ["algorithm.discount must lie in (0, 1], got 2.0"]),
    ("algorithm.horizon_start", 99, ["algorithm.horizon_start must lie between", "got 99"]),
    ("algorithm.clip_norm", -1, ["algorithm.clip_norm must be positive or null, got -1.0"]),
    ("algorithm.batch", True, ["algorithm.batch must be an integer, got True"]),
    ("algorithm.kind", "policy_gradint", ["algorithm.kind", "did you mean 'policy_gradient'?"]),
    ("evaluation.episodes", 0, ["evaluation.episodes must be at least 1, got 0"]),
    ("evaluation.every", -1, ["evaluation.every must not be negative, got -1"]),
    ("evaluation.seed", -5, ["evaluation.seed must lie in [0, 2^31) or be null, got -5"]),
    ("evaluation.seed", 2**70, ["evaluation.seed must lie in", str(2**70)]),
    ("checkpoint.every", 0, ["checkpoint.every must be at least 1, got 0"]),
    ("seed", 1.5, ["seed must be an integer, got 1.5"]),
    ("threads", 10**9, ["threads must lie in [1, 1024], got 1000000000"]),
    ("torch_threads", 10**12, ["torch_threads must lie in [1, 1024], got 1000000000000"]),
    ("name", "", ["name must be the name of a folder", "''"]),
    ("name", "a\nb", ["name must be the name of a folder", r"'a\nb'"]),
    ("name", "\x1b[31m", ["name must be the name of a folder", r"'\x1b[31m'"]),
    ("name", "x" * 300, ["name must be the name of a folder", "xxx"]),
    ("output_dir", "a\0b", ["output_dir must be a path", r"'a\x00b'"]),
    ("imports", [".x"], ["cannot import '.x'"]),
    # more than memory holds
    ("algorithm.horizon", 10**15, ["out of memory", "make batch, horizon or widths smaller"]),
    ("graph.nodes.policy.hidden", [10**15], ["out of memory"]),
    # graphs
    ("graph.nodes.policy.hidden", [8.5], ["graph.nodes.policy.hidden must be a list of integers"]),
    ("graph.nodes.policy.hidden", [0], ["graph.nodes.policy.hidden must hold positive"]),
    ("graph.nodes.policy.output_scale", NAN, ["graph.nodes.policy.output_scale", "got nan"]),
    ("graph.nodes.policy.activation", "gelu", ["graph.nodes.policy.activation", "'gelu'", "elu"]),
    ("graph.nodes.policy.dtype", "float16", ["graph.nodes.policy.dtype", "float32, float64"]),
    ("graph.nodes.policy", 3, ["graph.nodes.policy must be a mapping with a kind, got 3"]),
    ("graph.nodes.policy", None, ["graph.nodes.dynamics: nothing produces 'action'"]),
    ("graph.nodes.policy.initial_sd", -1, ["graph.nodes.policy.initial_sd must be positive, got"]),
    ("graph.nodes.training", {"kind": "observe"}, ["graph.nodes: the name of a node", "training"]),
    ("algorithm.stable_norm", 0, ["algorithm.stable_norm must be positive, got 0.0"]),
    ("graph.nodes.policy.outputs", ["a", "b"], ["graph.nodes.policy.outputs lists 2 values"]),
    ("graph.nodes.dynamics.method", "stpe", ["dynamics: unknown method 'stpe'", "mean 'step'?"]),
    ("graph.nodes.dynamics.eps", 2, ["graph.nodes.dynamics.eps must lie", "got 2.0"]),
    ("graph.nodes.dynamics.centered", "x", ["graph.nodes.dynamics.centered", "got 'x'"]),
    ("graph.base", "vanila", ["graph.base", "'vanila'", "empty, vanilla"]),
    ("graph.carry.z", {"source": "action", "width": 3}, ["graph.carry.z", "width is 3"]),
    ("graph.carry.z", {"source": "action", "initial": "x"}, ["graph.carry.z.initial", "'x'"]),
    # ids and arguments of environments
    ("task", "HalfCheeta-v5", ["task: ", "'HalfCheeta-v5'", "did you mean 'HalfCheetah-v5'?"]),
    ("task", "HalfCheetah-v99", ["task: ", "'HalfCheetah-v99'", "did you mean 'HalfCheetah-v5'?"]),
    ("task", "os:x", ["task", "'os:x' names a module", "--import"]),
    ("task", "x y", ["task: x y", "cannot be made"]),
    ("task", "Acrobot-v1", ["task: Acrobot-v1", "not a gymnasium.envs.mujoco.MujocoEnv"]),
    ("task_args.nothing", 1, ["task: ", "'nothing'"]),
    ("task_args.self", 1, ["task_args.self is not legal here"]),
    ("task_args.frame_skip", 0, ["task: ", "cannot be made"]),
    ("task_args.xml_file", "nothing.xml", ["task: ", "nothing.xml does not exist"]),
    ("eval_task", "", ["eval_task", "''"]),
    ("eval_task_args.max_episode_steps", "x", ["eval_task: InvertedPendulum-v5", "integer"]),
    # code
    ("_target_", "TRAP", ["_target_", "does not name code"]),
    ("task_args.x", [{"_target_": "TRAP"}], ["task_args.x[0]._target_", "does not name code"]),
    ("graph.nodes.policy._partial_", True, ["graph.nodes.policy._partial_", "name code"]),
    ("task_args._recursive_", False, ["task_args._recursive_", "name code"]),
    ("defaults", [{"_target_": "TRAP"}], ["defaults[0]._target_", "name code"]),
    # Hydra
    ("hydra", None, ["the key 'hydra' is not allowed in a file", "hydra.sweeper"]),
    ("hydra", {"run": {"dir": "x"}}, ["the key 'hydra' is not allowed in a file"]),
    ("hydra", {"callbacks": {"x": {"_target_": "TRAP"}}}, ["hydra.callbacks.x._target_"]),
    ("defaults", ["_self_", {"override hydra/launcher": "joblib"}], ["'hydra' is not allowed"]),
    ("defaults", ["_self_", "other@hydra.callbacks"], ["the key 'hydra' is not allowed"]),
    ("defaults", ["nothing"], ["tiny.yaml", "'nothing'"]),
    ("defaults", 3, ["tiny.yaml", "defaults must be a list"]),
    ("defaults", ["tiny"], ["tiny.yaml"]),
    ("defaults", ["../../../etc/passwd"], ["tiny.yaml", "../../../etc/passwd"]),
    ("x", "${oc.env:NO_SUCH_VARIABLE}", ["NO_SUCH_VARIABLE", "x"]),
    ("x", "${seed", ["tiny.yaml", "${seed"]),
    ("x", "${nothing:1}", ["nothing", "x"]),
    ("eval_task_args", {"a": "${eval_task_args.a}"}, ["eval_task_args.a"]),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value", "words"), VALUES)
def test_values_in_a_file(capsys, tmp_path, key, value, words):
    trap = tmp_path / "executed"
    text = yaml.safe_dump(changed({**TINY, "output_dir": str(tmp_path / "outputs")}, key, value))
    file = tmp_path / "tiny.yaml"
    file.write_text(text.replace("TRAP", f"pathlib.Path('{trap}').mkdir"))
    refused(command(capsys, "--config-file", file), *words)
    assert not trap.exists()
    assert not (tmp_path / "outputs").exists()


# Files that are no configuration

BOMB = "a0: &a0 [x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
TEXTS = [
    ("", ["must hold a mapping, got NoneType"]),
    ("- a\n", ["must hold a mapping, got list"]),
    ("[1, 2\n", ["bad.yaml is not YAML", "line 1"]),
    ("a: [\n", ["bad.yaml is not YAML"]),
    ("a: b: c\n", ["bad.yaml is not YAML"]),
    ("\tx: 1\n", ["bad.yaml is not YAML"]),
    ("a: 1\n---\nb: 2\n", ["bad.yaml is not YAML", "another document"]),
    ("? [a, b]\n: 1\n", ["bad.yaml is not YAML", "unhashable key"]),
    ("&a a: *b\n", ["bad.yaml is not YAML", "undefined alias 'b'"]),
    (b"task: \xff\xfe\x00", ["bad.yaml is not YAML", "0xff"]),
    ("task: a\0b\n", ["bad.yaml is not YAML", "#x0000"]),
    ("x: !!python/object/apply:os.mkdir [TRAP]\n", ["bad.yaml is not YAML", "os.mkdir"]),
    ("x: !!python/name:os.mkdir\n", ["bad.yaml is not YAML", "os.mkdir"]),
    ("x: !!set {a}\n", ["bad.yaml", "set"]),
    ("1: 2\n", ["1: a key must be a string, got 1"]),
    ("null: 2\n", ["a key must be a string, got None"]),
    ("task: T\ntask: U\n", ["duplicate key task"]),
    ("a: &a [*a]\n", ["a[0]", "at most 40 levels"]),
    ("x: " + "{a: " * 300 + "1" + "}" * 300, ["x.a.a", "at most 40 levels"]),
    ("x: " + "[" * 5000 + "]" * 5000, ["nested too deeply"]),
    (BOMB, ["100000 entries"]),
    ("# @package hydra.callbacks.x\n_target_: os.mkdir\npath: TRAP\n", ["does not name code"]),
    ("# @package hydra\nverbose: true\n", ["the key 'hydra' is not allowed"]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "words"), TEXTS)
def test_texts_that_are_no_configuration(capsys, tmp_path, monkeypatch, text, words):
    trap, file = tmp_path / "executed", tmp_path / "bad.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.replace("TRAP", str(trap)).encode())
    monkeypatch.chdir(tmp_path)
    refused(command(capsys, "--config-file", file), *words)
    assert os.listdir() == ["bad.yaml"]


# Overrides, and other arguments

OVERRIDES = [
    (["seed"], ["'seed' is not of the form key=value"]),
    (["seed=["], ["tiny.yaml", "no viable alternative"]),
    (["seed=1,2"], ["seed=1,2"]),
    (["seed=???"], ["seed must be an integer, got '???'"]),
    (["seed=${nothing}"], ["'nothing'", "seed"]),
    (["seed=\0"], ["tiny.yaml"]),
    (["=1"], ["tiny.yaml"]),
    (["a b=1"], ["a b=1"]),
    (["~nothing"], ["'nothing'"]),
    (["algorithm=nothing"], ["algorithm must be a mapping, got 'nothing'"]),
    (["graph/nodes=x"], ["graph/nodes"]),
    (["++a.b.c=1"], ["unknown key 'a'"]),
    (["seed=range(0,0)", "-m"], ["seed=range(0,0)", "no job"]),
    (["seed=0,,1", "-m"], ["seed=0,,1"]),
    (["seed=x,1", "-m"], ["seed must be an integer, got 'x'"]),
    (["task_args._target_=TRAP"], ["task_args._target_=", "does not name code"]),
    (["+task_args={x: {_target_: TRAP}}"], ["does not name code"]),
    (["+hydra.callbacks.x={_target_: TRAP, path: TRAP}", "-m", "seed=0"], ["hydra.callbacks.x"]),
    (["hydra.launcher._target_=TRAP", "-m"], ["does not name code"]),
    (["hydra={}", "-m"], ["'hydra' cannot be set", "hydra.sweeper"]),
    (["~hydra"], ["'hydra' cannot be set"]),
    (["hydra.searchpath=[pkg://numpy]"], ["'hydra.searchpath' cannot be set"]),
    (["+hydra.job.env_set.X=y", "-m"], ["'hydra.job.env_set.X' cannot be set"]),
    (["hydra.run.dir=TRAP"], ["'hydra.run.dir' cannot be set"]),
    (["hydra/launcher=nothing", "-m"], ["hydra/launcher/nothing"]),
    (["hydra.sweeper.max_batch_size=x", "-m"], ["hydra.sweeper.max_batch_size=x"]),
    (["hydra.sweep.dir=/dev/null/x", "-m", "seed=0"], ["/dev/null"]),
    (["--mode", "trian"], ["'trian'", "did you mean 'train'?"]),
    (["--resume", ""], ["is not the folder of a run"]),
    (["--resume", "a\0b"], [r"a\x00b is not the folder of a run"]),
    (["--resume", "\x1b[31m"], [r"\x1b[31m is not the folder of a run"]),
    (["--import", ""], ["cannot import ''"]),
    (["--import", "a b"], ["cannot import 'a b'"]),
    (["--nothing"], ["--nothing"]),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "words"), OVERRIDES)
def test_arguments(capsys, tmp_path, monkeypatch, arguments, words):
    trap, file = tmp_path / "executed", write_tiny(tmp_path)
    monkeypatch.chdir(tmp_path)
    given = [item.replace("TRAP", str(trap)) for item in arguments]
    refused(command(capsys, "--config-file", file, *given), *words)
    assert os.listdir() == ["tiny.yaml"]


def test_what_the_command_line_may_set_of_hydra(capsys, tmp_path):
    """A sweep that is configured, so that the refusals above refuse for the right reason."""
    legal = ("hydra.sweeper.max_batch_size=1", "hydra/launcher=basic", "hydra.sweep.subdir=x")
    done = command(capsys, "--config-file", write_tiny(tmp_path), "-m", "seed=0,1", *legal)
    assert (done.code, len(runs(tmp_path))) == (0, 2)


def test_a_neighbour_that_names_code_is_refused(capsys, tmp_path):
    trap = tmp_path / "executed"
    (tmp_path / "other.yaml").write_text(f"task_args: {{x: {{_target_: os.mkdir, path: {trap}}}}}")
    file = write_tiny(tmp_path, defaults=["_self_", "other"])
    for arguments in ([], ["-m", "seed=0"]):
        done = command(capsys, "--config-file", file, *arguments)
        refused(done, "task_args.x._target_", "does not name code")
    assert not trap.exists()


def test_a_value_may_look_like_a_forbidden_key(tmp_path):
    config = mbrl.load_config(write_tiny(tmp_path), ["name=my_target_", "output_dir=a/b_target_c"])
    assert (config.name, config.output_dir) == ("my_target_", "a/b_target_c")


# Checkpoints of runs


def leaves(value, path=()):
    """Return the paths of everything in a nest of dicts and lists, the whole included."""
    children = []
    if isinstance(value, dict | list):
        children = value.items() if isinstance(value, dict) else enumerate(value)
    return [path, *(leaf for key, child in children for leaf in leaves(child, (*path, key)))]


def replaced(content, path, value):
    if not path:
        return value
    copy = dict(content) if isinstance(content, dict) else list(content)
    copy[path[0]] = replaced(copy[path[0]], path[1:], value)
    return copy


GARBAGE = [None, "x", -1, NAN, [], {}, torch.zeros(3), torch.zeros(2, 2, 2, dtype=torch.int64)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return the folder of a run, and the configuration of its continuation."""
    folder = tmp_path_factory.mktemp("finished")
    path = run(tiny_config(folder, evaluation={"episodes": 1})).run_dir
    before = resumed_config(path).as_dict()
    return path, from_mapping(changed(before, "algorithm.updates", 5)), stored(path)


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_whatever_a_checkpoint_holds_is_refused_or_used(finished, every):
    """Each entry replaced by garbage, with a digest that fits: an ``MbrlError`` or a run."""
    path, longer, content = finished
    content = {**content, "wall_s": 1.0}
    latest = path / "checkpoints" / "latest.pt"
    generator = np.random.default_rng(0)
    messages = []
    for place in leaves(content)[::every]:
        bad = GARBAGE[generator.integers(len(GARBAGE))]
        checkpoint.save(latest, replaced(content, place, bad))
        for attempt in (lambda: run(longer, resume=path), lambda: load_policy(path)):
            try:
                attempt()
            except mbrl.MbrlError as error:
                messages.append(str(error))
    assert not any("\n" in text for text in messages)
    assert len(messages) > 40 / every
    checkpoint.save(latest, content)
    run(longer, resume=path)


# Python

PENDULUM = """<mujoco><worldbody><body><joint name="h" axis="0 1 0"/><geom size=".1"/></body>
</worldbody><actuator><motor joint="h"/></actuator></mujoco>"""
X, U = np.zeros((2, 2)), np.zeros((2, 1))
S = torch.zeros(2, 4)
MODELS = [
    ("hello", ["does not compile", "XML"]),
    ("", ["does not compile", "empty"]),
    ("<mujoco><worldbdy/></mujoco>", ["does not compile", "'worldbdy', line 1"]),
    ("<mujoco><worldbody><body><joint/></body></worldbody></mujoco>", ["mass and inertia"]),
    ('<mujoco><include file="nothing.xml"/></mujoco>', ["does not compile", "'nothing.xml'"]),
    ('<mujoco><asset><mesh file="no.stl"/></asset></mujoco>', ["does not compile", "'no.stl'"]),
]


def message(function, *arguments, **options):
    """Return the message of the error that a call must raise."""
    with pytest.raises(mbrl.MbrlError) as caught:
        function(*arguments, **options)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(("text", "words"), MODELS)
def test_models(tmp_path, text, words):
    (tmp_path / "model.xml").write_text(text)
    found = message(mbrl.Simulator, tmp_path / "model.xml")
    for word in ("model.xml", *words):
        assert word in found


@pytest.fixture(scope="module")
def simulator(tmp_path_factory):
    file = tmp_path_factory.mktemp("model") / "model.xml"
    file.write_text(PENDULUM)
    return mbrl.Simulator(file, threads=1)


CALLS = [
    (lambda s: mbrl.Simulator(None), "model must be a mujoco.MjModel or a path to MJCF, got None"),
    (lambda s: mbrl.Simulator("nothing.xml"), "no such MJCF file: nothing.xml"),
    (lambda s: mbrl.Simulator(" <mujoco/>"), r"^model is the text of MJCF.*from_xml_string\(text"),
    (lambda s: mbrl.Simulator(s.model, frame_skip=1.5), "frame_skip must be a positive .* 1.5"),
    (lambda s: mbrl.Simulator(s.model, frame_skip=True), "frame_skip must be a positive .* True"),
    (lambda s: mbrl.Simulator(s.model, threads=0), "threads must be an integer .* 0"),
    (lambda s: s.step(X[0], U), r"state must have shape \[B, 2\], got \[2\]"),
    (lambda s: s.step(X[:0], U[:0]), r"state must have shape \[B, 2\], got \[0, 2\]"),
    (lambda s: s.step(X, U[:1]), r"ctrl must have shape \[2, 1\], got \[1, 1\]"),
    (lambda s: s.step(X + NAN, U), r"state must be finite, got NaN or infinity in rows \[0, 1\]"),
    (lambda s: s.step(X, U + INF), r"ctrl must be finite, got NaN or infinity in rows \[0, 1\]"),
    (lambda s: s.step(X + 1e300, U), r"diverged in 2 of 2 rows \[0, 1\]"),
    (lambda s: s.rollout(X, U), r"ctrls must have shape \[T, B, nu\], got \[2, 1\]"),
    (lambda s: s.rollout(X, np.full((3, 2, 1), NAN)), "must be finite"),
    (lambda s: s.linearize(X, U, method="stpe"), "unknown method 'stpe'.* did you mean 'step'"),
    (lambda s: s.linearize(X, U, eps=0), "eps must lie between 0 and 1, or be None, got 0"),
    (lambda s: s.linearize(X, U, eps=NAN), "eps must lie between 0 and 1, or be None, got nan"),
    (lambda s: s.fields(X, ["xposs"]), "unknown MjData field 'xposs'.* did you mean 'xpos'"),
    (lambda s: mbrl.MujocoDynamics(s, method="x"), "unknown method 'x'"),
    (lambda s: mbrl.MujocoDynamics(s)(torch.zeros(2, 3), torch.zeros(2, 1)), r"shapes \[2, 3\]"),
    (lambda s: mbrl.MujocoDynamics(s)(torch.zeros(2, 2), torch.zeros(3, 1)), "the same batch"),
    (lambda s: mbrl.MujocoDynamics(s)(torch.zeros(2, 2) + NAN, torch.zeros(2, 1)), "be finite"),
    (lambda s: s.step([["a", "b"]] * 2, U), "state must be an array of real numbers, got dtype"),
    (lambda s: s.step(X + 1j, U), "state must be an array of real numbers, got dtype complex128"),
    (lambda s: s.step([[1.0], [1.0, 2.0]], U), "state must be an array of real numbers"),
    (lambda s: s.step(torch.zeros(2, 2, requires_grad=True), U), "state must be an array of real"),
    (lambda s: s.linearize(X, U, method=[]), r"unknown method \[\]; legal: auto, implicit, step"),
    (lambda s: s.linearize(X, U, eps="x"), "eps must lie between 0 and 1, or be None, got 'x'"),
    (lambda s: mbrl.Simulator(s.model, threads=10**12), "threads must be an integer from 1 to"),
    (lambda s: mbrl.MujocoDynamics(None), "simulator must be a Simulator, got NoneType"),
    (lambda s: mbrl.MujocoDynamics(s, eps=7.0), "eps must lie between 0 and 1, or be None, got 7"),
    (lambda s: mbrl.MujocoDynamics(s)(X, U), "state must be a tensor of real numbers, got ndarray"),
    (lambda s: mbrl.MujocoDynamics(s)(torch.zeros(2, 2) * 1j, torch.zeros(2, 1)), "complex64"),
    (lambda s: mbrl.make_task(None), "task must be a non-empty string, got None"),
    (lambda s: mbrl.make_task("HalfCheetha-v5"), "'HalfCheetha-v5'.*did you mean 'HalfCheetah-v5'"),
    (lambda s: mbrl.make_task("os:x"), "'os:x' names a module"),
    (lambda s: mbrl.make_task("InvertedPendulum-v5", nothing=1), "InvertedPendulum-v5.*'nothing'"),
    (lambda s: mbrl.load_config(None), "--config-file must be a path, got None"),
    (lambda s: mbrl.load_config("nothing.yaml"), "no such file: nothing.yaml"),
    (lambda s: mbrl.run(None), "a configuration must be a mapping, got None"),
    (lambda s: mbrl.run({}), "missing key 'task'"),
    (lambda s: mbrl.load_policy(None), "must be a path, got None"),
    (lambda s: mbrl.load_policy("nowhere"), "nowhere is not the folder of a run"),
    (lambda s: mbrl.register_task(""), "task name must be a non-empty string, got ''"),
    (lambda s: mbrl.register_policy("gaussian_mlp")(int), "'gaussian_mlp' is registered already"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "words"), CALLS)
def test_calls(simulator, call, words):
    assert re.search(words, message(call, simulator))


GRAPHS = [
    (lambda t: mbrl.build_graph({"node": {}}, t), "unknown key 'graph.node'.*'nodes'"),
    (lambda t: mbrl.build_graph({"nodes": {"policy": {"hidden": [0]}}}, t), "hidden must hold pos"),
    (lambda t: mbrl.build_graph(3, t), "graph must be a mapping of base, nodes, carry, got 3"),
    (lambda t: mbrl.build_graph({"graph": "x"}, t), "graph must be a mapping of .* got 'x'"),
    (lambda t: mbrl.build_graph(None, None), "task must be a Task, see .* got NoneType"),
    (lambda t: mbrl.build_graph(None, t, generator=3), "generator must be a torch.Generator"),
    (lambda t: mbrl.build_graph({"nodes": {"a.b": {}}}, t), "name of a node .* got 'a.b'"),
    (lambda t: t.reset(2.5, torch.Generator()), "batch must be an integer, zero or more, got 2.5"),
    (lambda t: t.reset(2, 7), "generator must be a torch.Generator, got int"),
    (lambda t: t.step(X, U), "state must be a tensor of real numbers, got ndarray"),
    (lambda t: t.observe(X), "state must be a tensor of real numbers, got ndarray"),
    (lambda t: t.terminated(X), "state must be a tensor of real numbers, got ndarray"),
    (lambda t: t.reward(S, U, S), "action must be a tensor of real numbers, got ndarray"),
    (lambda t: t.reward(S, torch.zeros(1, 1), S), r"shapes .*, got \[2, 4\] and \[1, 1\]"),
    (lambda t: mbrl.build_graph(None, t).unroll(X, 1), "state must be a tensor of real .* ndarray"),
    (lambda t: make_problem("Hopper-v5", 3), "task must be a Task, see mbrl.make_task; got str"),
    (lambda t: make_problem(t, 3.0), "algorithm.horizon must be an integer, got 3.0"),
    (lambda t: make_problem(t, "3"), "algorithm.horizon must be an integer, got '3'"),
    (lambda t: make_problem(t, None), "horizon must be an integer, got None"),
    (lambda t: make_problem(t, 3, dynamics=lambda x, u: x), "dynamics must be a torch.nn.Module"),
    (lambda t: ILQR(iterations=2.5), "iterations must be an integer, got 2.5"),
    (lambda t: ILQR().plan(t, S), "problem must be a Problem, see make_problem; got Gymnasium"),
    (lambda t: ILQR().plan(make_problem(t, 3), X), "state must be a tensor of real .* ndarray"),
    (lambda t: ILQR().plan(make_problem(t, 3), S * 1j), "real numbers, got torch.complex64"),
    (lambda t: ILQR().plan(make_problem(t, 3), S, [[0]]), "actions must be a tensor of .* list"),
    (lambda t: ILQR().plan(make_problem(t, 3), S, generator=0), "must be a torch.Gen.* int"),
    (lambda t: ILQR().plan(make_problem(t, 3), S, iterations=2.0), "iterations must be an integer"),
    (lambda t: mbrl.build_graph({"nodes": 3}, t), "graph.nodes must be a mapping, got 3"),
    (lambda t: mbrl.build_graph(None, t).unroll(torch.zeros(2, 4), 0), "horizon must .* got 0"),
    (lambda t: mbrl.build_graph(None, t).unroll(torch.zeros(2, 3), 1), r"state must .* \[2, 3\]"),
    (lambda t: mbrl.build_graph(None, t).unroll(torch.zeros(2, 4) + NAN, 1), "must be finite"),
    (lambda t: t.step(torch.zeros(2, 3), torch.zeros(2, 1)), r"got \[2, 3\] and \[2, 1\]"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "words"), GRAPHS)
def test_graphs_and_tasks(call, words):
    assert re.search(words, message(call, mbrl.make_task("InvertedPendulum-v5", threads=1)))


def test_lists_of_overrides(tmp_path):
    file = write_tiny(tmp_path)
    for overrides in ("seed=1", [1], [None]):
        assert "overrides must be a list of strings" in message(mbrl.load_config, file, overrides)


def test_observations_of_a_policy(finished):
    policy = load_policy(finished[0], "best")
    for shape in ((3,), (1, 1, 4), ()):
        assert re.search("observation must have shape .* got", message(policy.act, np.zeros(shape)))
    assert "observation must be finite" in message(policy.act, np.full(4, NAN))
    assert "observation must hold numbers, got 'x'" in message(policy.act, "x")
    assert "'latest' or 'best', got 'bets'" in message(load_policy, finished[0], "bets")
