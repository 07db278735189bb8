"""OMD and MLE on SAC for one seed, as one would first write them, with autograd and torch.optim."""

import itertools
import math

import torch
from torch import nn

TINY = {
    "observation_size": 4,
    "action_size": 2,
    "dtype": torch.float64,
    "discount": 0.9,
    "tau": 0.1,
    "init_temperature": 0.7,
    "target_entropy": -1.0,
    "hidden_dim": 6,
    "model_hidden_dim": 5,
    "lr": 0.01,
    "model_lr": 0.02,
    "inner_steps": 1,
    "outer_steps": 1,
}


def perceptron(inputs, outputs, hidden):
    widths = inputs, hidden, hidden, outputs
    layers = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def flat(module):
    """Parameters in the order in which the agents keep them: inputs before outputs."""
    return torch.cat([transposed(p.detach()).flatten() for p in module.parameters()])


def fill(module, values):
    with torch.no_grad():
        for p in module.parameters():
            part, values = values[: p.numel()], values[p.numel() :]
            p.copy_(transposed(part.view(transposed(p).shape)))
    assert not len(values)


def transposed(p):
    return p.mT if p.ndim == 2 else p


class Critic(nn.Module):
    def __init__(self, s):
        super().__init__()
        inputs = s.observation_size + s.action_size
        self.nets = nn.ModuleList([perceptron(inputs, 1, s.hidden_dim) for _ in range(2)])

    def forward(self, observation, action):
        return [net(torch.cat([observation, action], -1))[..., 0] for net in self.nets]


class SACReference:
    """One seed, its networks as torch has them."""

    def __init__(self, settings, parameters):
        """``parameters``: flat w, phi and theta."""
        s = self.s = settings
        n, nu = s.observation_size, s.action_size
        self.actor = perceptron(n, 2 * nu, s.hidden_dim)
        self.critic, self.target = Critic(s), Critic(s)
        self.model = perceptron(n + nu, n + 1, s.model_hidden_dim)
        for module in (self.actor, self.critic, self.target, self.model):
            module.to(s.dtype)
        for module, name in ((self.actor, "phi"), (self.critic, "w"), (self.model, "theta")):
            fill(module, parameters[name])
        self.target.load_state_dict(self.critic.state_dict())
        self.log_temperature = torch.tensor(math.log(s.init_temperature), dtype=s.dtype)
        self.log_temperature.requires_grad_()

        def adam(parameters, lr):
            return torch.optim.Adam(parameters, lr=lr)

        self.actor_adam = adam(self.actor.parameters(), s.lr)
        self.critic_adam = adam(self.critic.parameters(), s.lr)
        self.model_adam = adam(self.model.parameters(), s.model_lr)
        self.temperature_adam = adam([self.log_temperature], s.lr)

    def policy(self, observation):
        mean, log_std = self.actor(observation).chunk(2, -1)
        return mean, log_std.clamp(-10, 2).exp()

    def sample(self, observation, noise):
        """Actions, and log pi from torch's own densities."""
        mean, std = self.policy(observation)
        normal = torch.distributions.Normal(mean, std)
        tanh = torch.distributions.transforms.TanhTransform(cache_size=1)
        policy = torch.distributions.TransformedDistribution(normal, tanh)
        action = tanh(mean + std * noise)
        return action, policy.log_prob(action).sum(-1)

    def predict(self, batch):
        found = self.model(torch.cat([batch.observation, batch.action], -1))
        return found[..., :-1], found[..., -1]

    def critic_loss(self, batch, following, reward, noise):
        with torch.no_grad():
            action, log_prob = self.sample(following.detach(), noise)
            entropy = -self.log_temperature.exp() * log_prob
        value = torch.minimum(*self.target(following, action)) + entropy
        y = reward + self.s.discount * batch.mask * value
        return sum((q - y).square().mean() for q in self.critic(batch.observation, batch.action))

    def actor_loss(self, batch, noise):
        action, log_prob = self.sample(batch.observation, noise)
        least = torch.minimum(*self.critic(batch.observation, action))
        temperature = self.log_temperature.exp().detach()
        return (temperature * log_prob - least).mean(), -log_prob.detach().mean()

    def model_loss(self, batch):
        following, reward = self.predict(batch)
        error = (following - batch.following).square().sum(-1).mean()
        return error + (reward - batch.reward).square().mean()

    def learn(self, batch, following, reward, draw):
        for _ in range(self.s.inner_steps):
            loss = self.critic_loss(batch, following.detach(), reward.detach(), draw())
            descend(self.critic_adam, loss, self.critic.parameters())
            with torch.no_grad():
                for old, new in zip(
                    self.target.parameters(), self.critic.parameters(), strict=True
                ):
                    old.copy_((1 - self.s.tau) * old + self.s.tau * new)
            loss, entropy = self.actor_loss(batch, draw())
            descend(self.actor_adam, loss, self.actor.parameters())
            loss = self.log_temperature.exp() * (entropy - self.s.target_entropy)
            descend(self.temperature_adam, loss, [self.log_temperature])

    def model_gradient(self, batch, noise):
        """The implicit gradient with the identity for the inverse Hessian, by double backward."""
        parameters = list(self.critic.parameters())
        real = self.critic_loss(batch, batch.following, batch.reward, noise)
        z = torch.autograd.grad(real, parameters)
        inner = self.critic_loss(batch, *self.predict(batch), noise)
        gradient = torch.autograd.grad(inner, parameters, create_graph=True)
        product = sum((a * b).sum() for a, b in zip(z, gradient, strict=True))
        return torch.autograd.grad(-product, list(self.model.parameters()))

    def omd(self, batch, draw):
        """``draw`` returns another noise [B, nu] each time."""
        self.learn(batch, *self.predict(batch), draw)
        found = self.model_gradient(batch, draw())
        for p, gradient in zip(self.model.parameters(), found, strict=True):
            p.grad = gradient
        self.model_adam.step()

    def mle(self, batch, draw):
        descend(self.model_adam, self.model_loss(batch), self.model.parameters())
        self.learn(batch, *self.predict(batch), draw)

    def flat(self):
        modules = {
            "phi": self.actor,
            "w": self.critic,
            "w_": self.target,
            "theta": self.model,
        }
        return {
            **{name: flat(module) for name, module in modules.items()},
            "log_temperature": self.log_temperature.detach()[None],
        }


def descend(adam, loss, parameters):
    parameters = list(parameters)
    for p, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        p.grad = gradient
    adam.step()
