"""What studies of tabular models show: returns, bounds on errors, sensitivity to noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from mbrl.algorithms.omd.tabular_model import Estimates
from mbrl.errors import ArgumentError
from mbrl.types import Array, Chart, Curve, Panel

Study: TypeAlias = Literal["returns", "bounds", "noise"]

_NORM = "bound on the norm of the model"


class Variant(NamedTuple):
    """What distinguishes a row of a study."""

    agent: str  # omd or mle
    adjoint: str  # exact or identity; of mle, none
    bound: float  # on the norm
    noise: float  # deviation of what is added to Q*
    seed: int

    @property
    def label(self) -> str:
        """Of the curve it belongs to."""
        return f"{self.agent}, {self.adjoint}" if self.adjoint else self.agent


def check_study(study: Study, bounds: Sequence[float] | None, noise: Sequence[float]) -> None:
    """Refuse options that vary what a study does not show.

    Raises:
        ArgumentError: naming the option.
    """
    for name, values in (("bounds", bounds), ("noise", noise)):
        if values is not None and not values:
            raise ArgumentError(f"algorithm.{name} must not be empty")
    if study == "noise" and bounds is not None and len(bounds) > 1:
        raise ArgumentError(f"algorithm.bounds: study noise takes one or null, got {len(bounds)}")
    if study != "noise" and len(noise) > 1:
        raise ArgumentError(f"algorithm.noise: study {study} takes one, got {len(noise)}")
    if study != "noise" and bounds is None:
        raise ArgumentError(f"algorithm.bounds: study {study} takes a list, got null")


def draw(study: Study, variants: Sequence[Variant], estimates: Estimates) -> Chart:
    """Return the chart of a study, and all numbers behind it.

    Args:
        study: which.
        variants: of every row.
        estimates: of every row.
    """
    values = {name: value.numpy() for name, value in estimates._asdict().items()}
    values["gaps"] = values["q_error_bounds"] - values["q_errors"]
    return Chart(f"omd_{study}", _PANELS[study](variants, values), _columns(variants, values))


def _columns(
    variants: Sequence[Variant], values: dict[str, Array]
) -> dict[str, Sequence[str | float]]:
    return {
        "agent": [v.agent for v in variants],
        "adjoint": [v.adjoint for v in variants],
        "bound": [v.bound for v in variants],
        "noise": [v.noise for v in variants],
        "seed": [v.seed for v in variants],
        "return": values["returns"].tolist(),
        "q_error": values["q_errors"].tolist(),
        "q_error_bound": values["q_error_bounds"].tolist(),
        "bound_minus_error": values["gaps"].tolist(),
    }


def _returns(variants: Sequence[Variant], values: dict[str, Array]) -> list[Panel]:
    curves = _curves(variants, values["returns"], "bound", _standard_error)
    return [Panel("mean over seeds and standard error", _NORM, "return", curves)]


def _bounds(variants: Sequence[Variant], values: dict[str, Array]) -> list[Panel]:
    return [
        Panel(title, _NORM, label, _curves(variants, values[key], "bound", _standard_error), y=2.0)
        for title, label, key in (
            ("tightness of the bound on the error", "bound - error", "gaps"),
            ("error", "max |Q_opt - Q|", "q_errors"),
        )
    ]


def _noise(variants: Sequence[Variant], values: dict[str, Array]) -> list[Panel]:
    curves = _curves(variants, values["returns"], "noise", lambda v: 0.3 * v.std(1))
    title = "mean over seeds and 0.3 standard deviations"
    return [Panel(title, "standard deviation of noise on Q*", "return", curves, x=10.0)]


_PANELS: dict[Study, Callable[[Sequence[Variant], dict[str, Array]], list[Panel]]] = {
    "returns": _returns,
    "bounds": _bounds,
    "noise": _noise,
}


def _curves(
    variants: Sequence[Variant], values: Array, axis: str, spread: Callable[[Array], Array]
) -> list[Curve]:
    """Return a curve for every label, over the values that ``axis`` of its variants takes."""
    curves = []
    for label in dict.fromkeys(v.label for v in variants):
        rows = [i for i, v in enumerate(variants) if v.label == label]
        given = np.array([getattr(variants[i], axis) for i in rows])
        x = np.array(list(dict.fromkeys(given.tolist())))
        by_seed = values[rows].reshape(len(x), -1)
        mean, wide = by_seed.mean(1), spread(by_seed)
        curves.append(Curve(label, x, mean, mean - wide, mean + wide))
    return curves


def _standard_error(values: Array) -> Array:
    count = values.shape[1]
    return values.std(1, ddof=1) / math.sqrt(count) if count > 1 else np.zeros(len(values))
