"""OMD, MLE and VEP of one seed, as one would first write them, with autograd and torch.optim."""

import math

import torch

TINY = {
    "observation_size": 3,
    "actions": 2,
    "dtype": torch.float64,
    "discount": 0.9,
    "alpha": 0.3,
    "tau": 0.1,
    "hidden_dim": 5,
    "model_hidden_dim": 4,
    "lr": 0.01,
    "model_lr": 0.02,
    "num_Q_steps": 1,
    "num_T_steps": 1,
    "double": True,
    "hard": False,
    "probabilistic": False,
    "learn_reward": True,
    "warm_opt": False,
    "warm_start": True,
    "adjoint": "identity",
    "damping": 1e-5,
    "adjoint_iterations": 100,
}


def layers_of(parameters, rows):
    """Networks [[(W, b), ...], ...] of some rows of stacked parameters, as leaves of autograd."""
    return [
        [
            (weight[row].clone().requires_grad_(), bias[row, 0].clone().requires_grad_())
            for weight, bias in zip(parameters.weights, parameters.biases, strict=True)
        ]
        for row in rows
    ]


def leaves(networks):
    return [leaf for network in networks for layer in network for leaf in layer]


def run(network, value):
    for i, (weight, bias) in enumerate(network):
        value = (value.relu() if i else value) @ weight + bias
    return value


class Reference:
    """One seed of an agent, begun where the agent is."""

    def __init__(self, agent, seed, settings, values=None):
        self.s, self.values = settings, values
        copies = 2 if settings.double else 1
        rows = range(seed * copies, (seed + 1) * copies)
        self.w, self.w_ = layers_of(agent.w, rows), layers_of(agent.w, rows)
        self.state = layers_of(agent.theta.state, [seed])
        self.reward = layers_of(agent.theta.reward, [seed])
        self.w_adam = torch.optim.Adam(leaves(self.w), lr=settings.lr)
        parts = leaves(self.state) + leaves(self.reward)
        self.theta_adam = torch.optim.Adam(parts, lr=settings.model_lr)

    def predict(self, batch, noise):
        index = batch.action[:, 0].long()
        one_hot = torch.eye(2, dtype=batch.observation.dtype)[index]
        value = torch.cat([batch.observation, one_hot], -1)
        output, reward = run(self.state[0], value), run(self.reward[0], value)[:, 0]
        if not self.s.probabilistic:
            return output, reward, output, None
        mean, log_std = output.chunk(2, -1)
        log_std = log_std.clamp(-5, 2)
        following = mean if noise is None else mean + log_std.exp() * noise
        return following, reward if self.s.learn_reward else batch.reward, mean, log_std

    def error(self, batch, following, reward):
        """L: the targets carry gradients to ``following`` and ``reward``, not to w."""
        values = torch.stack([run(net, following) for net in self.w_]).amin(0)
        if self.s.hard:
            value = values.amax(-1)
        else:
            value = self.s.alpha * torch.logsumexp(values / self.s.alpha, -1)
        y = reward + self.s.discount * batch.mask * value
        index = batch.action.long()
        errors = [run(net, batch.observation).gather(1, index)[:, 0] - y for net in self.w]
        return sum(error.square().mean() for error in errors) / len(errors)

    def learn_q(self, batch, following, reward):
        loss = self.error(batch, following.detach(), reward.detach())
        gradients = torch.autograd.grad(loss, leaves(self.w))
        for leaf, gradient in zip(leaves(self.w), gradients, strict=True):
            leaf.grad = gradient
        self.w_adam.step()
        with torch.no_grad():
            for old, new in zip(leaves(self.w_), leaves(self.w), strict=True):
                old.copy_((1 - self.s.tau) * old + self.s.tau * new)

    def begin_anew(self, generator):
        """Orthogonal weights, drawn network by network, layer by layer, for Q and its targets."""
        with torch.no_grad():
            for new, target in zip(self.w, self.w_, strict=True):
                for layer, (weight, bias) in enumerate(new):
                    gain = 0.01 if layer == len(new) - 1 else 2**0.5
                    torch.nn.init.orthogonal_(weight, gain, generator=generator)
                    bias.zero_()
                    target[layer][0].copy_(weight)
                    target[layer][1].zero_()

    def omd(self, batch, noise=None, generator=None):
        if not self.s.warm_start:
            self.begin_anew(generator)
        if not self.s.warm_opt:
            self.w_adam = torch.optim.Adam(leaves(self.w), lr=self.s.lr)
        following, reward, *_ = self.predict(batch, noise)
        reward = reward if self.s.learn_reward else batch.reward
        for _ in range(self.s.num_Q_steps):
            self.learn_q(batch, following, reward)
        real = self.error(batch, batch.following, batch.reward)
        z = torch.autograd.grad(real, leaves(self.w))
        inner = torch.autograd.grad(
            self.error(batch, following, reward), leaves(self.w), create_graph=True
        )
        if self.s.adjoint == "conjugate_gradient":
            z = self.solved(inner, z)
        product = sum((a * b).sum() for a, b in zip(z, inner, strict=True))
        parts = leaves(self.state) + leaves(self.reward)
        gradients = torch.autograd.grad(-product, parts, allow_unused=True)
        for leaf, gradient in zip(parts, gradients, strict=True):
            leaf.grad = torch.zeros_like(leaf) if gradient is None else gradient
        self.theta_adam.step()

    def solved(self, inner, z):
        """(H + damping I)^-1 z, with the Hessian written out."""
        flat = torch.cat([g.flatten() for g in inner])
        rows = [
            torch.cat(
                [g.flatten() for g in torch.autograd.grad(x, leaves(self.w), retain_graph=True)]
            )
            for x in flat
        ]
        hessian = torch.stack(rows) + self.s.damping * torch.eye(len(flat), dtype=torch.float64)
        solution = torch.linalg.solve(hessian, torch.cat([g.flatten() for g in z]))
        parts = solution.split([g.numel() for g in z])
        return [part.view_as(g) for part, g in zip(parts, z, strict=True)]

    def fit(self, batch, noise=None):
        following, _, mean, log_std = self.predict(batch, noise)
        reward = self.predict(batch, None)[1]
        if self.values is not None:
            loss = sum(
                (run(net, batch.following) - run(net, following)).square().mean()
                for net in self.values
            )
        elif self.s.probabilistic:
            scaled = (batch.following - mean) / log_std.exp()
            each = 0.5 * scaled.square() + log_std + 0.5 * math.log(2 * math.pi)
            loss = each.sum(-1).mean()
        else:
            loss = (batch.following - following).square().sum(-1).mean()
        loss = loss + (batch.reward - reward).square().mean()
        self.theta_adam.zero_grad()
        loss.backward()
        self.theta_adam.step()

    def mle(self, batches, noises):
        """num_T_steps batches for the model, then num_Q_steps for Q."""
        for t, (batch, noise) in enumerate(zip(batches, noises, strict=True)):
            if t < self.s.num_T_steps:
                self.fit(batch, noise if self.values is not None else None)
            else:
                with torch.no_grad():
                    following, reward, *_ = self.predict(batch, noise)
                reward = reward if self.s.learn_reward else batch.reward
                self.learn_q(batch, following, reward)

    def flat(self):
        """w, w_ and theta as the agent keeps them."""
        return [
            torch.cat([leaf.detach().flatten() for leaf in leaves(networks)])
            for networks in (self.w, self.w_, self.state + self.reward)
        ]
