"""Where models are computed: what may be asked for, and that a graphics processor agrees."""

import pytest
import torch

from mbrl.errors import ArgumentError
from mbrl.nn import (
    EnsembleDynamics,
    Fitting,
    FoldedEnsemble,
    FoldedMLP,
    MLPDynamics,
    find_device,
    one_step_error,
    open_loop_error,
)
from tests.nn.systems import affine, normal, seeded, standardize

KINDS = {
    "mlp": lambda: MLPDynamics(3, 2, seeded(), hidden=(9,), dtype="float64", reward=True),
    "ensemble": lambda: EnsembleDynamics(
        3, 2, seeded(), hidden=(9, 9), members=4, elites=2, dtype="float64", reward=True, angles=[1]
    ),
}


@pytest.mark.parametrize("there", [True, False])
def test_the_best_there_is(there, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert find_device("auto").type == ("cuda" if there else "cpu")
    assert find_device("cpu").type == "cpu"
    if there:
        assert find_device("cuda").type == "cuda"
        return
    with pytest.raises(ArgumentError, match=r"^device: 'cuda' is not available here; legal: 'auto"):
        find_device("cuda")


def fitted(kind, device):
    """A model after two epochs, which elites were chosen in, and what it measured."""
    model, data = KINDS[kind](), affine(200)
    standardize(model, data)
    model.to(device)
    fitting = Fitting(
        model,
        data,
        optimizer=torch.optim.Adam(model.parameters(), lr=0.01),
        generator=seeded(1),
        batch_size=32,
        held_out=affine(40, seed=7),
        patience=5,
    )
    fitting.epoch()
    kept = fitting.state_dict()
    fitting.load_state_dict(kept)
    fitting.epoch()
    return model, fitting.finish()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no graphics processor")
@pytest.mark.parametrize("kind", KINDS)
def test_a_graphics_processor_computes_the_same(kind):
    (ours, reported), (theirs, expected) = fitted(kind, "cuda"), fitted(kind, "cpu")
    assert ours.input_mean.is_cuda
    close = {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(reported.losses, expected.losses, **close)
    torch.testing.assert_close(reported.held_out, expected.held_out, **close)
    for name, part in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name].cpu(), part, **close)
    data, (state, actions) = affine(30, seed=4), (affine(6).states, normal(1, 4, 6, 2))
    for one, other in (
        (ours.predict(state, actions[0]), theirs.predict(state, actions[0])),
        (ours.rollout(state, actions), theirs.rollout(state, actions)),
        (one_step_error(ours, data), one_step_error(theirs, data)),
        (
            open_loop_error(ours, normal(2, 5, 6, 3), actions),
            open_loop_error(theirs, normal(2, 5, 6, 3), actions),
        ),
        *_folded(ours, theirs, state, actions),
    ):
        for found, wanted in zip(one, other, strict=True):
            torch.testing.assert_close(found, wanted, **close)


def _folded(ours, theirs, state, actions):
    if isinstance(ours, MLPDynamics):
        yield FoldedMLP(ours).rollout(state, actions), FoldedMLP(theirs).rollout(state, actions)
        return
    for mode in ("ts1", "tsinf", "expectation"):
        yield tuple(
            FoldedEnsemble(model).rollout(
                state, actions, particles=4, generator=seeded(3), mode=mode
            )
            for model in (ours, theirs)
        )
        yield tuple(
            model.propagate(state.expand(4, -1, -1), actions[0], seeded(3), mode)
            for model in (ours, theirs)
        )
