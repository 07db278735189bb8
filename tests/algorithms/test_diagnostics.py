"""What is seen inside an update."""

import copy

import numpy as np
import pytest
import torch

from mbrl.algorithms import PolicyGradient, Setting
from mbrl.algorithms.diagnostics import ActionGradients, step_diagnostics
from mbrl.tasks import make_task
from tests.tiny import same

HORIZON, BATCH = 6, 3
POLICY = {"kind": "deterministic_mlp", "hidden": [8], "dtype": "float64", "output_scale": 1.0}


def algorithm(policy=POLICY, **options):
    task = make_task("mbrl/SmoothInvertedPendulum-v0", threads=1, reset_noise_scale=0.1)
    generator = torch.Generator().manual_seed(0)
    setting = Setting(task, {"nodes": {"policy": policy}}, generator)
    return PolicyGradient(setting, horizon=HORIZON, batch=BATCH, **options)


def disturbed_returns(task, policy, state, at, disturbance):
    """Returns [B] where the action of one step is another than the policy's, and later ones its."""
    total = torch.zeros(len(state), dtype=torch.float64)
    for t in range(HORIZON):
        action = policy(task.observe(state)) + (disturbance if t == at else 0.0)
        transition = task.step(state, action)
        total, state = total + transition.reward, transition.next_state
    return total


def test_gradients_are_the_derivatives_of_the_return_by_each_action():
    found = algorithm()
    policy = copy.deepcopy(found.graph.nodes["policy"].policy)
    task, generator = found.graph.task, torch.Generator().manual_seed(0)
    generator.set_state(found._generator.get_state())
    start = task.start(BATCH, generator).state
    found.update()
    h, expected = 1e-5, []
    with torch.no_grad():
        for t in range(HORIZON):
            up, down = (disturbed_returns(task, policy, start, t, sign * h) for sign in (1, -1))
            expected.append(float(((up - down) / (2 * h)).abs().mean()))
    np.testing.assert_allclose(found.diagnostics()["action_gradient_norm"], expected, rtol=1e-5)


def test_looking_changes_no_bit(monkeypatch):
    looked, blind = algorithm(), algorithm()
    for _ in range(3):
        seen = looked.update()
        looked.diagnostics()
        with monkeypatch.context() as patch:
            patch.setattr(ActionGradients, "watch", lambda self, t, action: None)
            assert blind.update() == seen
    assert same(looked.state_dict(), blind.state_dict())
    assert "action_gradient_norm" not in blind.diagnostics()


def test_before_the_first_update_there_is_nothing_to_see():
    assert algorithm().diagnostics() == {}


def test_an_estimator_without_derivatives_has_no_gradients_of_actions():
    noisy = {"kind": "gaussian_mlp", "hidden": [8]}
    found = algorithm(noisy, estimator={"kind": "score_function"})
    found.update()
    assert set(found.diagnostics()) == {
        "action_mean",
        "action_deviation",
        "action_saturation",
        "step_reward",
    }


@pytest.mark.parametrize("kind", ["pathwise", "sum", "interpolated"])
def test_every_estimator_through_the_physics_has_them(kind):
    policy = {"kind": "gaussian_mlp", "hidden": [8], "deviation": "constant"}
    found = algorithm(policy, estimator={"kind": kind})
    found.update()
    norms = found.diagnostics()["action_gradient_norm"]
    assert norms.shape == (HORIZON,)
    assert (norms > 0).all()


def test_statistics_are_over_the_rows_that_run():
    actions = np.array([[[1.0, -1.0], [3.0, 0.5]], [[0.5, 0.0], [9.0, 9.0]], [[9.0, 9], [9, 9]]])
    rewards = np.array([[1.0, 2.0], [4.0, 9.0], [9.0, 9.0]])
    alive = torch.tensor([[True, True], [True, False], [False, False]])
    bounds = torch.tensor([-1.0, -1.0]), torch.tensor([1.0, 1.0])
    found = step_diagnostics(torch.from_numpy(actions), torch.from_numpy(rewards), alive, *bounds)
    nan = np.nan
    for name, expected in {
        "action_mean": [[2.0, -0.25], [0.5, 0.0], [nan, nan]],
        "action_deviation": [[1.0, 0.75], [0.0, 0.0], [nan, nan]],
        "action_saturation": [0.75, 0.0, nan],
        "step_reward": [1.5, 4.0, nan],
    }.items():
        np.testing.assert_array_equal(found[name], expected)
