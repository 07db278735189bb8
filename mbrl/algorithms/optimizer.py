"""Optimisers by name, with the learning-rate schedule of a run of known length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from mbrl.errors import ArgumentError

# What they remember of every parameter.
_BUFFERS: dict[type, set[str]] = {
    torch.optim.Adam: {"step", "exp_avg", "exp_avg_sq"},
    torch.optim.SGD: {"momentum_buffer"},
}


@dataclass(frozen=True)
class OptimizerOptions:
    """Options of an optimiser.

    Attributes:
        kind: adam (Kingma and Ba 2015) or sgd.
        lr: learning rate at the start.
        final_lr: learning rate at the end, as a share of ``lr``; linear in between.
        betas: Adam's decay rates; for no other.
        momentum: SGD's momentum; for no other.
        weight_decay: L2 penalty on all parameters, as torch has it: deviations of noise, which are
            logarithms of shares, and actions that are parameters themselves are drawn to 0 as well.
        bias_factor: multiplies the learning rate of biases.
        deviation_factor: multiplies the learning rate of the deviations of action noise, where they
            are parameters.
    """

    kind: Literal["adam", "sgd"] = "adam"
    lr: float = 1e-3
    final_lr: float = 1.0
    betas: Sequence[float] = (0.9, 0.999)
    momentum: float = 0.0
    weight_decay: float = 0.0
    bias_factor: float = 1.0
    deviation_factor: float = 1.0

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise ArgumentError(f"lr must be positive, got {self.lr}")
        for name in ("final_lr", "momentum", "weight_decay", "bias_factor", "deviation_factor"):
            if not getattr(self, name) >= 0:
                raise ArgumentError(f"{name} must not be negative, got {getattr(self, name)}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ArgumentError(f"betas must be two numbers in [0, 1), got {list(self.betas)}")
        if self.kind == "adam" and self.momentum != 0:
            raise ArgumentError(
                f"momentum is sgd's, adam has betas; leave it at 0.0, got {self.momentum}"
            )
        if self.kind == "sgd" and tuple(self.betas) != (0.9, 0.999):
            raise ArgumentError(
                f"betas are adam's, sgd has momentum; leave them at [0.9, 0.999], got "
                f"{list(self.betas)}"
            )


def make_optimizer(
    parameters: Mapping[str, torch.nn.Parameter], options: OptimizerOptions
) -> torch.optim.Optimizer:
    """Return the optimiser that ``options`` describe.

    Its ``load_state_dict`` raises ValueError for a state that does not fit it, which torch would
    take, and stumble over in the next step.

    Args:
        parameters: by name; the last part of a name says what is a bias ("bias") and what a
            deviation ("sd", "std").
        options: see :class:`OptimizerOptions`.

    Raises:
        ArgumentError: if there is no parameter for a factor to act on.
    """
    groups = _groups(parameters, options)
    optimizer: torch.optim.Optimizer
    if options.kind == "adam":
        first, second = options.betas
        optimizer = torch.optim.Adam(
            groups, lr=options.lr, betas=(first, second), weight_decay=options.weight_decay
        )
    else:
        optimizer = torch.optim.SGD(
            groups, lr=options.lr, momentum=options.momentum, weight_decay=options.weight_decay
        )
    optimizer.register_load_state_dict_pre_hook(_check_state)
    return optimizer


def set_learning_rate(
    optimizer: torch.optim.Optimizer, options: OptimizerOptions, progress: float
) -> float:
    """Set the learning rate of the schedule at ``progress`` in [0, 1].

    Returns:
        It, without the factors of biases and deviations.
    """
    rate = options.lr * (1.0 + (options.final_lr - 1.0) * min(progress, 1.0))
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]
    return rate


def _groups(
    parameters: Mapping[str, torch.nn.Parameter], options: OptimizerOptions
) -> list[dict[str, Any]]:
    """Return the parameters by the factor on their learning rate."""
    groups: dict[float, list[torch.nn.Parameter]] = {}
    unused = {"bias_factor", "deviation_factor"}
    for name, parameter in parameters.items():
        key, factor = _factor(name.rpartition(".")[2], options)
        unused.discard(key)
        groups.setdefault(factor, []).append(parameter)
    for key in sorted(unused):
        if getattr(options, key) != 1:
            raise ArgumentError(
                f"optimizer.{key} is {getattr(options, key)}, but no parameter of the policy is "
                f"what it multiplies; leave it at 1.0"
            )
    return [{"params": members, "factor": factor} for factor, members in groups.items()]


def _factor(name: str, options: OptimizerOptions) -> tuple[str, float]:
    if "bias" in name:
        return "bias_factor", options.bias_factor
    if "sd" in name or "std" in name:
        return "deviation_factor", options.deviation_factor
    return "", 1.0


def _check_state(optimizer: torch.optim.Optimizer, stored: dict[str, Any]) -> None:
    groups = optimizer.state_dict()["param_groups"]
    for ours, theirs in zip(groups, stored["param_groups"], strict=True):
        for name in ours.keys() & theirs.keys():  # versions of torch differ in their options
            if type(ours[name]) is not type(theirs[name]):
                raise ValueError(f"{name} of the optimizer is {theirs[name]!r}")
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, entry in stored["state"].items():
        if entry and entry.keys() != _BUFFERS[type(optimizer)]:
            raise ValueError(f"the optimizer remembers {list(entry)}")
        for name, value in entry.items():
            if value is None and name == "momentum_buffer":  # without momentum there is none
                continue
            shape = () if name == "step" else parameters[index].shape
            if value.shape != shape or not value.is_floating_point():
                raise ValueError(f"{name} of the optimizer is {value!r}")
