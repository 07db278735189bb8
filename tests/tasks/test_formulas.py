"""Formulas are given the keywords that they declare, and nothing else."""

import contextlib

import pytest
import torch

from mbrl.tasks.formulas import Formula, declared

STATE = torch.arange(6.0, dtype=torch.float64).reshape(3, 2)
CONTEXT = torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64)


def plain(state):
    return state.sum(-1)


def timed(state, t):
    return state.sum(-1) + t


def contextual(state, *, context):
    return state.sum(-1) * context[:, 0]


def both(state, context, t=0):
    return state.sum(-1) * context[:, 0] + t


def anything(state, **keywords):
    return state.sum(-1) * keywords["context"][:, 0] + keywords["t"]


@pytest.mark.parametrize(
    ("function", "names", "expected"),
    [
        (plain, (), [1.0, 5.0, 9.0]),
        (timed, ("t",), [5.0, 9.0, 13.0]),
        (contextual, ("context",), [1.0, 10.0, 27.0]),
        (both, ("t", "context"), [5.0, 14.0, 31.0]),
        (anything, ("t", "context"), [5.0, 14.0, 31.0]),
    ],
)
def test_a_function_gets_what_it_declares(function, names, expected):
    assert declared(function) == names
    assert Formula(function, "test")(STATE, t=4, context=CONTEXT).tolist() == expected


def test_a_function_that_reads_attributes_is_called_row_by_row_with_its_context():
    class Env:
        goal = None

        @contextlib.contextmanager
        def enter(self, row):
            self.goal = float(row[0])
            yield
            self.goal = None

        def reward(self, state, action, t):
            assert len(state) == len(action) == 1
            return (state.sum(-1) + action[:, 0]) * self.goal + t

    env = Env()
    action = torch.ones(3, 1, dtype=torch.float64, requires_grad=True)
    found = Formula(env.reward, "test", env.enter)(STATE, action, t=1, context=CONTEXT)
    assert found.tolist() == [3.0, 13.0, 31.0]
    found.sum().backward()
    assert action.grad[:, 0].tolist() == [1.0, 2.0, 3.0]


def test_no_rows_are_no_rows():
    class Env:
        goal = 1.0

        def reward(self, state):
            return state.sum(-1) * self.goal

    nothing = Formula(Env().reward, "test", contextlib.nullcontext)(
        STATE[:0], t=0, context=CONTEXT[:0]
    )
    assert nothing.shape == (0,)
