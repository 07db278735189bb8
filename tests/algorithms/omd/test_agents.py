"""Stacked agents against one seed at a time, written with autograd and torch.optim."""

import copy

import pytest
import torch

from mbrl.algorithms.omd.agents import AGENTS, Settings
from mbrl.data import Batch
from tests.algorithms.omd.reference import TINY, Reference, layers_of, leaves, run

SEEDS, BATCH = 3, 6


def generators():
    return [torch.Generator().manual_seed(100 + seed) for seed in range(SEEDS)]


def drawn_batches(count, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*size):
        return torch.randn(size, generator=generator, dtype=torch.float64)

    return [
        Batch(
            normal(SEEDS, BATCH, 3),
            torch.randint(2, (SEEDS, BATCH, 1), generator=generator).double(),
            normal(SEEDS, BATCH),
            normal(SEEDS, BATCH, 3),
            torch.randint(2, (SEEDS, BATCH), generator=generator).double(),
        )
        for _ in range(count)
    ]


def made(kind, **changes):
    """An agent whose last layers are not as small as at its start, so that everything counts."""
    settings = Settings(**{**TINY, **changes})
    own = generators()
    agent = AGENTS[kind](settings, own)
    for parameters, layers in ((agent.w, 3), (agent.theta.state, 3), (agent.theta.reward, 3)):
        parameters.weights[layers - 1].mul_(50.0)
        for bias in parameters.biases:
            bias.normal_(generator=torch.Generator().manual_seed(bias.shape[2])).mul_(0.3)
    agent.load_state_dict({**agent.state_dict(), "w_": agent.w.flat.clone()})
    return agent, settings, own


def followed(agent, kind, settings, own, updates=3):
    """Make updates of the agent, and of every seed's reference."""
    values = [None] * SEEDS
    if kind == "vep":
        agent._v.weights[2].mul_(50.0)
        values = [layers_of(agent._v, range(5 * s, 5 * s + 5)) for s in range(SEEDS)]
    references = [Reference(agent, s, settings, values[s]) for s in range(SEEDS)]
    noisy = copy.deepcopy([g.get_state() for g in own])
    batches = drawn_batches(updates * agent.batches)
    queue = iter(batches)
    for _ in range(updates):
        agent.update(lambda: next(queue))
    assert next(queue, None) is None
    for s, reference in enumerate(references):
        generator = torch.Generator()
        generator.set_state(noisy[s])
        rows = [Batch(*(part[s] for part in batch)) for batch in batches]
        noises = []
        for i in range(len(rows)):
            fits = kind == "mle" and i % agent.batches < settings.num_T_steps
            if settings.probabilistic and not fits:
                size = BATCH, 3
                noises.append(torch.randn(size, generator=generator, dtype=torch.float64))
            else:
                noises.append(None)
        if kind == "omd":
            for row, noise in zip(rows, noises, strict=True):
                reference.omd(row, noise, generator)
        else:
            for first in range(0, len(rows), agent.batches):
                part = slice(first, first + agent.batches)
                reference.mle(rows[part], noises[part])
    return references


CASES = [
    {},
    {"double": False},
    {"hard": True},
    {"probabilistic": True},
    {"learn_reward": False},
    {"num_Q_steps": 3},
    {"num_T_steps": 2},
]
OMD_CASES = [
    {"warm_opt": True},
    {"warm_opt": True, "num_Q_steps": 2},
    {"warm_start": False, "num_Q_steps": 2},
    {"adjoint": "conjugate_gradient", "damping": 0.5},
    {"adjoint": "conjugate_gradient", "damping": 0.5, "probabilistic": True, "double": False},
]


@pytest.mark.parametrize(
    ("kind", "changes"),
    [(kind, case) for kind in AGENTS for case in CASES] + [("omd", case) for case in OMD_CASES],
    ids=str,
)
def test_every_seed_is_what_it_would_be_with_autograd_and_torchs_adam(kind, changes):
    if "adjoint" in changes:  # the solution itself, not what a loose tolerance leaves of it
        changes = {**changes, "adjoint_iterations": 500}
    agent, settings, own = made(kind, **changes)
    if "adjoint" in changes:
        object.__setattr__(agent._adjoint, "tolerance", 1e-13)
    before = agent.theta.flat.clone(), agent.w.flat.clone()
    references = followed(agent, kind, settings, own)
    state = agent.state_dict()
    for s, reference in enumerate(references):
        w, w_, theta = reference.flat()
        torch.testing.assert_close(state["w"][s], w, rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(state["w_"][s], w_, rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(state["theta"][s], theta, rtol=1e-6, atol=1e-8)
    assert float((before[0] - agent.theta.flat).abs().max()) > 0.01
    assert float((before[1] - agent.w.flat).abs().max()) > 0.005


def test_with_one_inner_step_q_is_learned_by_sign_descent():
    agent, settings, _ = made("omd")
    references = [Reference(agent, s, settings) for s in range(SEEDS)]
    before = agent.w.flat.clone()
    (batch,) = drawn_batches(1)
    agent.update(lambda: batch)
    for s, reference in enumerate(references):
        row = Batch(*(part[s] for part in batch))
        following, reward, *_ = reference.predict(row, None)
        loss = reference.error(row, following, reward)
        gradients = torch.autograd.grad(loss, leaves(reference.w))
        gradient = torch.cat([g.flatten() for g in gradients])
        large = gradient.abs() > 1e-4
        assert float(large.double().mean()) > 0.5
        moved = agent.w.flat[s] - before[s]
        wanted = -settings.lr * gradient.sign()
        torch.testing.assert_close(moved[large], wanted[large], rtol=1e-4, atol=0)


def test_mles_reward_and_states_are_fitted_to_what_was_met():
    agent, *_ = made("mle", model_hidden_dim=32, model_lr=3e-3)
    batches = drawn_batches(1)
    first = agent.measured(batches[0])
    for _ in range(300):
        agent.update(lambda: batches[0])
    last = agent.measured(batches[0])
    for name in ("model_error", "reward_error"):
        assert bool((last[name] < 0.05 * first[name]).all())
    constant = 1.5 * torch.log(torch.tensor(2 * torch.pi, dtype=torch.float64))
    torch.testing.assert_close(last["next_obs_nll"], 0.5 * last["model_error"] + constant)


@pytest.mark.parametrize("probabilistic", [False, True])
def test_what_is_measured_is_that_of_the_references(probabilistic):
    agent, settings, _ = made("mle", probabilistic=probabilistic)
    (batch,) = drawn_batches(1)
    found = agent.measured(batch)
    for s in range(SEEDS):
        reference = Reference(agent, s, settings)
        row = Batch(*(part[s] for part in batch))
        following, reward, mean, log_std = reference.predict(row, None)
        deviation = torch.ones_like(mean) if log_std is None else log_std.exp()
        likelihood = torch.distributions.Normal(mean, deviation).log_prob(row.following)
        error = reference.error(row, row.following, row.reward)
        gradient = torch.autograd.grad(error, leaves(reference.w))
        values = torch.stack([run(net, row.observation) for net in reference.w]).detach()
        policy = torch.distributions.Categorical(logits=values.mean(0) / settings.alpha)
        index = row.action.long().expand(2, -1, -1)
        expected = {
            "loss_Q": error,
            "grad_norm_Q": torch.cat([g.flatten() for g in gradient]).norm(),
            "vals_Q": values.gather(2, index).mean(),
            "entropy": policy.entropy().mean(),
            "next_obs_nll": -likelihood.sum(-1).mean(),
            "model_error": (following - row.following).square().sum(-1).mean(),
            "reward_error": (reward - row.reward).square().mean(),
        }
        for name, value in expected.items():
            torch.testing.assert_close(found[name][s], value.detach(), msg=lambda m, n=name: n + m)
