"""Stacked soft actor-critics against one seed at a time, written with autograd and torch.optim."""

import copy

import pytest
import torch

from mbrl.algorithms.omd.sac_agents import SAC_AGENTS, SACSettings
from mbrl.data import Batch
from tests.algorithms.omd.sac_reference import TINY, SACReference, flat

SEEDS, BATCH = 3, 7


def drawn_batches(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    n, nu = TINY["observation_size"], TINY["action_size"]

    def normal(*size):
        return torch.randn(size, generator=generator, dtype=torch.float64)

    return [
        Batch(
            normal(SEEDS, BATCH, n),
            normal(SEEDS, BATCH, nu).tanh(),
            normal(SEEDS, BATCH),
            normal(SEEDS, BATCH, n),
            torch.randint(3, (SEEDS, BATCH), generator=generator).clamp(max=1).double(),
        )
        for _ in range(count)
    ]


def made(kind, **changes):
    """An agent with biases and deviations that count, some of which are clipped."""
    settings = SACSettings(**{**TINY, **changes})
    own = [torch.Generator().manual_seed(100 + seed) for seed in range(SEEDS)]
    agent = SAC_AGENTS[kind](settings, own)
    generator = torch.Generator().manual_seed(5)
    for parameters in (agent.phi, agent.w, agent.theta):
        for bias in parameters.biases:
            bias.normal_(generator=generator).mul_(0.3)
    agent.phi.weights[2][..., settings.action_size :].mul_(3.0)
    agent.load_state_dict({**agent.state_dict(), "w_": agent.w.flat.clone()})
    return agent, settings, own


def references(agent, settings):
    parts = {name: getattr(agent, name).flat for name in ("phi", "w", "theta")}
    return [
        SACReference(settings, {name: part[s].clone() for name, part in parts.items()})
        for s in range(SEEDS)
    ]


def noises(state):
    """The noise that a seed draws, from where its generator stands."""
    generator = torch.Generator()
    generator.set_state(state)
    size = BATCH, TINY["action_size"]
    return lambda: torch.empty(size, dtype=torch.float64).normal_(generator=generator)


@pytest.mark.parametrize("kind", SAC_AGENTS)
@pytest.mark.parametrize(
    "changes", [{}, {"inner_steps": 3}, {"outer_steps": 2}, {"init_temperature": 4.0}], ids=str
)
def test_every_seed_is_what_it_would_be_with_autograd_and_torchs_adam(kind, changes):
    agent, settings, own = made(kind, **changes)
    alone = references(agent, settings)
    before = agent.state_dict()
    states = copy.deepcopy([g.get_state() for g in own])
    batches = drawn_batches(3 * agent.batches)
    queue = iter(batches)
    for _ in range(3):
        agent.update(lambda: next(queue))
    assert next(queue, None) is None
    after = agent.state_dict()
    for s, reference in enumerate(alone):
        draw = noises(states[s])
        for batch in batches:
            getattr(reference, kind)(Batch(*(part[s] for part in batch)), draw)
        for name, wanted in reference.flat().items():
            torch.testing.assert_close(after[name][s], wanted, rtol=1e-10, atol=1e-10)
    for name, slowest in {"phi": 0.02, "w": 0.02, "theta": 0.04, "w_": 0.005}.items():
        assert float((after[name] - before[name]).abs().mean()) > slowest * 0.5, name
    assert float((after["log_temperature"] - before["log_temperature"]).abs().min()) > 0.01


def test_the_implicit_gradient_is_that_of_double_backward():
    agent, settings, _ = made("omd")
    alone = references(agent, settings)
    (batch,) = drawn_batches(1)
    noise = drawn_batches(1, seed=1)[0].action
    # Targets that are not the critics, as after some updates.
    moved = agent.state_dict()["w_"].add(0.1)
    agent.load_state_dict({**agent.state_dict(), "w_": moved})
    inputs = torch.cat([batch.observation, batch.action], -1)
    with torch.no_grad():
        agent.write_model_gradient(batch, agent.model.predict(agent.theta, inputs), noise)
    for s, reference in enumerate(alone):
        with torch.no_grad():
            for p in reference.target.parameters():
                p.add_(0.1)
        gradients = reference.model_gradient(Batch(*(part[s] for part in batch)), noise[s])
        for p, gradient in zip(reference.model.parameters(), gradients, strict=True):
            p.data = gradient
        wanted = flat(reference.model)
        assert float(wanted.abs().max()) > 1
        found = agent._theta_gradient.flat[s]
        torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-11)


def test_what_is_measured_is_that_of_the_references():
    for kind in SAC_AGENTS:
        agent, settings, _ = made(kind)
        (batch,) = drawn_batches(1)
        found = agent.measured(batch)
        again = agent.measured(batch)
        noise, following_noise = torch.randn(
            (2, BATCH, settings.action_size),
            generator=torch.Generator().manual_seed(0),
            dtype=torch.float64,
        )
        for s, reference in enumerate(references(agent, settings)):
            row = Batch(*(part[s] for part in batch))
            critic = reference.critic_loss(row, row.following, row.reward, following_noise)
            actor, entropy = reference.actor_loss(row, noise)
            following, reward = reference.predict(row)
            if kind == "omd":
                model = reference.model_gradient(row, following_noise)
            else:
                parameters = list(reference.model.parameters())
                model = torch.autograd.grad(reference.model_loss(row), parameters)
            expected = {
                "critic_loss": critic,
                "actor_loss": actor,
                "entropy": entropy,
                "values": -(actor - settings.init_temperature * -entropy),
                "temperature": torch.tensor(settings.init_temperature, dtype=torch.float64),
                "model_error": (following - row.following).square().sum(-1).mean(),
                "reward_error": (reward - row.reward).square().mean(),
                "grad_norm_critic": norm(
                    torch.autograd.grad(critic, list(reference.critic.parameters()))
                ),
                "grad_norm_actor": norm(
                    torch.autograd.grad(actor, list(reference.actor.parameters()))
                ),
                "grad_norm_model": norm(model),
            }
            assert set(expected) == set(found)
            for name, value in expected.items():
                torch.testing.assert_close(
                    found[name][s], value.detach(), msg=lambda m, name=name: f"{name}: {m}"
                )
                assert torch.equal(found[name], again[name])


def test_mles_model_is_fitted_to_what_was_met():
    agent, *_ = made("mle", model_hidden_dim=32, model_lr=3e-3)
    (batch,) = drawn_batches(1)
    first = agent.measured(batch)
    for _ in range(300):
        agent.update(lambda: batch)
    last = agent.measured(batch)
    for name in ("model_error", "reward_error"):
        assert bool((last[name] < 0.05 * first[name]).all())


def norm(gradients):
    return torch.cat([g.flatten() for g in gradients]).norm()
