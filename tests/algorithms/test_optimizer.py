"""Learning rates of groups of parameters."""

import pytest
import torch

from mbrl.algorithms.optimizer import OptimizerOptions, make_optimizer, set_learning_rate
from mbrl.errors import ArgumentError

NAMES = ("nodes.bias_node.policy.0.weight", "nodes.p.0.bias", "nodes.p.log_sd", "nodes.p.log_std")


def parameters(names=NAMES):
    return {name: torch.nn.Parameter(torch.zeros(2)) for name in names}


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_factors_multiply_the_step_along_the_schedule(kind):
    options = OptimizerOptions(
        kind=kind, lr=0.1, final_lr=0.5, bias_factor=2.0, deviation_factor=0.25
    )
    trained = parameters()
    optimizer = make_optimizer(trained, options)
    # Adam's step is the learning rate where gradients do not change.
    for progress, rate in ((0.0, 0.1), (0.5, 0.075), (1.0, 0.05)):
        before = {name: p.detach().clone() for name, p in trained.items()}
        assert set_learning_rate(optimizer, options, progress) == pytest.approx(rate)
        for p in trained.values():
            p.grad = torch.ones(2)
        optimizer.step()
        for name, factor in zip(NAMES, (1.0, 2.0, 0.25, 0.25), strict=True):
            moved = before[name] - trained[name].detach()
            torch.testing.assert_close(moved, torch.full((2,), rate * factor), rtol=1e-4, atol=0)


def test_a_factor_of_zero_freezes():
    trained = parameters()
    options = OptimizerOptions(bias_factor=0.0)
    optimizer = make_optimizer(trained, options)
    set_learning_rate(optimizer, options, 0.0)
    for p in trained.values():
        p.grad = torch.ones(2)
    optimizer.step()
    assert [float(p.detach().abs().sum()) > 0 for p in trained.values()] == [
        True,
        False,
        True,
        True,
    ]


def test_mistakes_are_named():
    with pytest.raises(ArgumentError, match=r"bias_factor must not be negative, got -1"):
        OptimizerOptions(bias_factor=-1.0)
    options = OptimizerOptions(deviation_factor=3.0)
    with pytest.raises(ArgumentError, match=r"optimizer.deviation_factor is 3.0, but no parameter"):
        make_optimizer(parameters(NAMES[:2]), options)

    for kind, idle, words in (
        ("adam", {"momentum": 0.9}, "momentum is sgd's, adam has betas; .* got 0.9"),
        ("sgd", {"betas": [0.5, 0.9]}, r"betas are adam's, .* got \[0.5, 0.9\]"),
    ):
        with pytest.raises(ArgumentError, match=words):
            OptimizerOptions(kind=kind, **idle)
