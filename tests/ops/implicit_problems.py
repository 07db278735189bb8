"""Linear problems of three kinds, A w = B theta, and the rules for the adjoint that solve them."""

import torch

from mbrl.ops import ConjugateGradient, Exact, Neumann

N, M, ROWS = 5, 3, 4
GENERATOR = torch.Generator().manual_seed(0)


def normal(*shape, dtype=torch.float64, generator=None):
    """Without a generator, of torch's own, which every test is begun with."""
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


ROOT = normal(N, N, generator=GENERATOR) / N**0.5
POSITIVE = ROOT @ ROOT.T + 0.5 * torch.eye(N, dtype=torch.float64)
_Q, _ = torch.linalg.qr(normal(N, N, generator=GENERATOR))
INDEFINITE = _Q @ torch.diag(torch.tensor([-2.0, -0.7, 0.4, 1.0, 3.0], dtype=torch.float64)) @ _Q.T
UNSYMMETRIC = torch.eye(N, dtype=torch.float64) + 0.4 * normal(N, N, generator=GENERATOR)
MATRICES = {"positive": POSITIVE, "indefinite": INDEFINITE, "unsymmetric": UNSYMMETRIC}
B = normal(N, M, generator=GENERATOR)
TARGET = normal(N, generator=GENERATOR)

NORMAL = ConjugateGradient(iterations=60, tolerance=1e-13, normal=True)
RULES = {
    "exact": (Exact(), "positive indefinite unsymmetric"),
    "cg": (ConjugateGradient(iterations=30, tolerance=1e-13), "positive"),
    "cg on the normal equations": (NORMAL, "positive indefinite unsymmetric"),
    "neumann": (Neumann(terms=400, step=0.3), "positive unsymmetric"),
}
CASES = [(rule, kind) for rule, (_, kinds) in RULES.items() for kind in kinds.split()]


def linear(a):
    """The problem A w = B theta."""
    return (
        lambda theta: torch.linalg.solve(a, B.to(a) @ theta),
        lambda w, theta: a @ w - B.to(a) @ theta,
    )


def outer(w):
    return (w - TARGET.to(w)).square().sum() / 2
