"""The two-state process once more, in plain NumPy: value iteration, one table at a time."""

import numpy as np

P = np.array([[[0.7, 0.3], [0.99, 0.01]], [[0.2, 0.8], [0.99, 0.01]]])  # [s, a, s']
R = np.array([[-0.45, -0.1], [0.5, 0.5]])  # [s, a]
GAMMA, TAU = 0.9, 0.01
START = np.array([0.5, 0.5])
Q_OPT = np.array([[0.16363807, 0.06282009], [1.89091046, 0.66282009]])
OPTIMAL_RETURN = 1.0272727


def backup(q, p, r):
    shift = q.max(axis=1)
    values = shift + TAU * np.log(np.exp((q - shift[:, None]) / TAU).sum(axis=1))
    return r + GAMMA * p @ values


def value_iteration(p, r, sweeps=400):
    """The error of a sweep is that of the one before times 0.9."""
    q = np.zeros_like(r)
    for _ in range(sweeps):
        q = backup(q, p, r)
    return q


def policy(q):
    weights = np.exp((q - q.max(axis=1, keepdims=True)) / TAU)
    return weights / weights.sum(axis=1, keepdims=True)


def evaluated(pi, steps=400):
    """The discounted return, by summing it up."""
    state, total = START, 0.0
    for t in range(steps):
        total += GAMMA**t * (state @ (pi * R).sum(axis=1))
        state = np.einsum("s,sa,sap->p", state, pi, P)
    return total


def softmax(logits):
    weights = np.exp((logits - logits.max(axis=-1, keepdims=True)) / TAU)
    return weights / weights.sum(axis=-1, keepdims=True)
