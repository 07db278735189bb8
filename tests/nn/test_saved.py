"""Models that runs have learned: read again bit for bit, or refused in one line."""

import pytest
import torch

import mbrl
from mbrl import checkpoint
from mbrl.algorithms import LearnedMPC
from mbrl.errors import ArgumentError, CheckpointError, ConfigError
from mbrl.nn import ModelDescription, load_state_dynamics
from tests.learned_runs import random_model, save_model
from tests.nn.systems import affine, seeded
from tests.tiny import tiny_config

OPTIONS = {"hidden": (16, 16), "activation": "tanh", "dtype": "float64"}


@pytest.fixture
def run(tmp_path):
    """The folder of a run with a model of 3 coordinates and 2 actions."""
    return save_model(tmp_path / "learn" / "run-1", random_model(3, 2), **OPTIONS)


def test_a_model_is_read_again(run):
    data, model = affine(20), random_model(3, 2)
    expected = model(data.states, data.actions)
    for path in (run, str(run), run / "checkpoints" / "latest.pt"):
        found = mbrl.load_dynamics(path)
        assert torch.equal(found(data.states, data.actions), expected)


def test_an_ensemble_is_read_with_its_elites(tmp_path):
    options = {"members": 4, "elites": 2, "hidden": [8, 8]}
    description = ModelDescription.of(
        {"kind": "ensemble", **options}, 3, 2, "states", where="model"
    )
    model, data = description.build(seeded(5)), affine(20)
    model.standardize(data)
    model.choose(torch.tensor([0.3, 0.1, 0.4, 0.2]))
    run = save_model(tmp_path / "run", model, kind="ensemble", **description.options)
    found = mbrl.load_dynamics(run)
    assert found.elites.tolist() == [1, 3]
    assert torch.equal(found(data.states, data.actions), model(data.states, data.actions))


def test_a_description_is_complete():
    description = ModelDescription.of({"kind": "mlp", "hidden": [7]}, 3, 2, "states", where="model")
    complete = {"hidden": (7,), "activation": "relu", "reward": False, "dtype": "float32"}
    assert description.options.items() >= complete.items()
    assert ModelDescription(**description.as_dict()) == description
    with pytest.raises(ConfigError, match=r"unknown key 'model.hiden'; .*did you mean 'hidden'\?"):
        ModelDescription.of({"kind": "mlp", "hiden": [7]}, 3, 2, "states", where="model")
    with pytest.raises(ConfigError, match=r"model.kind: unknown value 'mpl'; .*'mlp'\?"):
        ModelDescription.of({"kind": "mpl"}, 3, 2, "states", where="model")


@pytest.mark.parametrize("which", ["weights", "options", "kind"])
def test_a_checkpoint_that_does_not_fit_itself(tmp_path, which):
    kind, options, model = "mlp", dict(OPTIONS), random_model(3, 2)
    if which == "weights":
        options["hidden"] = (9,)
    elif which == "options":
        options["unheard_of"] = 1
    else:
        kind = "unheard_of"
    run = save_model(tmp_path / "run", model, kind=kind, **options)
    expected = {
        "weights": r"run: the checkpoint holds no model that can be built here: .*size mismatch",
        "options": r"no model that can be built here: .*unexpected keyword argument 'unheard_of'",
        "kind": r"run.kind: unknown dynamics model 'unheard_of'; legal: ensemble, mlp",
    }
    with pytest.raises((CheckpointError, ConfigError), match=expected[which]) as caught:
        mbrl.load_dynamics(run)
    assert "\n" not in str(caught.value)


def test_nothing_in_a_checkpoint_is_executed(tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path / "sprung").touch, ()

    path = tmp_path / "run" / "checkpoints" / "latest.pt"
    checkpoint.save(path, {"algorithm": {"learner": Trap()}})
    with pytest.raises(CheckpointError, match="it was not executed"):
        mbrl.load_dynamics(tmp_path / "run")
    assert not (tmp_path / "sprung").exists()


def test_there_must_be_such_a_run(run, tmp_path):
    expected = r"run: .*run-2 is not the folder of a run; in .*learn, legal: run-1; .*'run-1'\?"
    with pytest.raises(ArgumentError, match=expected):
        mbrl.load_dynamics(run.with_name("run-2"))
    with pytest.raises(ArgumentError, match=r"run: .* is not the folder of a run"):
        mbrl.load_dynamics(tmp_path / "nowhere" / "at" / "all")
    (run / "checkpoints" / "latest.pt").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"latest.pt is damaged"):
        mbrl.load_dynamics(run)


def test_a_run_must_have_learned_a_model(tmp_path):
    path = mbrl.run(tiny_config(tmp_path)).run_dir
    expected = "has learned no model of the dynamics; legal: runs of algorithms fit_dynamics and"
    with pytest.raises(ArgumentError, match=expected):
        mbrl.load_dynamics(path)


def test_what_is_needed_of_a_model_of_states(run, tmp_path):
    found = load_state_dynamics(run, 3, 2)
    assert (found.state_size, found.action_size) == (3, 2)
    expected = r"key: the model of .* is of 3 coordinates and 2 actions, the task has 3 and 1"
    with pytest.raises(ArgumentError, match=expected):
        load_state_dynamics(run, 3, 1, where="key")
    seen = save_model(tmp_path / "seen", random_model(3, 2), space="observations", **OPTIONS)
    expected = r"key: .*predicts observations; legal: one of states, learned with algorithm.space"
    with pytest.raises(ArgumentError, match=expected):
        load_state_dynamics(seen, 3, 2, where="key")


def test_the_model_of_learned_mpc_is_the_trained_one(tmp_path, monkeypatch):
    trained, update = set(), LearnedMPC.update
    monkeypatch.setattr(LearnedMPC, "update", lambda self: trained.add(self) or update(self))
    options = {"updates": 1, "episodes": 1, "random_episodes": 1, "steps": 5, "horizon": 2}
    run = mbrl.run(
        {
            "task": "mbrl/HalfCheetahTorso-v0",
            "task_args": {"max_episode_steps": 5},
            "algorithm": {
                "kind": "learned_mpc",
                "model": {"kind": "mlp", "hidden": [8]},
                **options,
            },
            "evaluation": {"episodes": 1},
            "output_dir": str(tmp_path),
            "threads": 1,
        }
    ).run_dir
    (algorithm,) = trained
    states, actions = affine(9).states[:, :1].expand(9, 20), affine(9).actions.repeat(1, 3)
    expected = algorithm._learner.model(states, actions)
    assert torch.equal(mbrl.load_dynamics(run)(states, actions), expected)
    with pytest.raises(ArgumentError, match="predicts observations"):
        load_state_dynamics(run, 18, 6)
