"""Runs of the same configuration but for the seed, and their curves together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mbrl.errors import ConfigError
from mbrl.reporting.runs import RunRecord
from mbrl.reporting.statistics import mean_interval
from mbrl.types import Array, Curve

# What results do not depend on, or what tells runs of a group apart.
_ASIDE = ("seed", "output_dir", "name", "monitor", "threads", "checkpoint", "imports")
_RETURN = "return_mean"
_MOST_POINTS = 400  # of a curve that is drawn
_MOST_NAMED = 3  # keys in a label


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seeds, each of which occurs once.

    Attributes:
        label: what tells the group from others.
        runs: the runs.
    """

    label: str
    runs: Sequence[RunRecord]


def grouped(runs: Sequence[RunRecord]) -> list[Group]:
    """Return runs by their configurations, in the order of the first of each.

    A run that repeats a seed of another is not independent of it: it begins a group of its own.

    Raises:
        ConfigError: if a run is given twice.
    """
    places = [run.path.resolve() for run in runs]
    for place in places:
        if places.count(place) > 1:
            raise ConfigError(f"--run: {place} is given twice")
    found: dict[str, list[list[RunRecord]]] = {}
    for run in runs:
        alike = found.setdefault(_key(run), [])
        for group in alike:
            if all(_seeds(run).isdisjoint(_seeds(other)) for other in group):
                group.append(run)
                break
        else:
            alike.append([run])
    groups = [group for alike in found.values() for group in alike]
    return [Group(label, group) for label, group in zip(_labels(groups), groups, strict=True)]


def curve(group: Group, column: str, x: str = "update") -> Curve | None:
    """Return a column of the metrics of a group: mean and 95 % interval over its seeds.

    It ends where the first of its runs does. A run of several seeds counts as one, but for
    ``return_mean``, whose parts ``return_<seed>`` it tells.

    Args:
        group: the group.
        column: what is drawn.
        x: against which other; of several runs the mean.

    Returns:
        The curve, perhaps of fewer points; None if no run has such columns.
    """
    runs = [run for run in group.runs if column in run.metrics and x in run.metrics]
    having = [run.metrics for run in runs]
    if not having:
        return None
    count = min(len(metrics[column]) for metrics in having)
    shown = _thinned(count)
    across = np.stack([metrics[x][:count][shown] for metrics in having]).mean(0)
    parts = [run.metrics[name] for run in runs for name in _parts(run, column)]
    values = np.stack([part[:count][shown] for part in parts])
    label = group.label if len(parts) == 1 else f"{group.label} ({len(parts)} seeds)"
    with np.errstate(invalid="ignore"):  # of what diverged
        return Curve(label, across, *mean_interval(values))


def _seeds(run: RunRecord) -> set[Any]:
    """Return the seeds of a run: its own, and those that it tells the returns of."""
    return {run.config.get("seed"), *_several(run)}


def _several(run: RunRecord) -> list[int]:
    """Return the seeds of a run that trains several at once: its seed, and those that follow."""
    first, count = run.config.get("seed"), run.config.get("algorithm", {}).get("seeds")
    if not isinstance(first, int) or not isinstance(count, int) or isinstance(count, bool):
        return []
    seeds = [*range(first, first + count)]
    return seeds if all(f"return_{seed}" in run.metrics for seed in seeds) else []


def _parts(run: RunRecord, column: str) -> list[str]:
    """Return the columns whose mean is this one, of its seeds."""
    several = _several(run) if column == _RETURN else []
    return [f"return_{seed}" for seed in several] or [column]


def _thinned(count: int) -> Any:
    if count <= _MOST_POINTS:
        return slice(None)
    chosen: Array = np.linspace(0, count - 1, _MOST_POINTS)
    return chosen.round().astype(int)


def _key(run: RunRecord) -> str:
    kept = {key: value for key, value in run.config.items() if key not in _ASIDE}
    return repr((run.name, sorted(map(repr, _entries(kept, "")))))


def _labels(groups: Sequence[Sequence[RunRecord]]) -> list[str]:
    """Return the names of the configurations, with what tells those of the same name apart."""
    flat = [dict(_entries(group[0].config, "")) for group in groups]
    names = [group[0].name for group in groups]
    labels = []
    for index, (group, name) in enumerate(zip(groups, names, strict=True)):
        namesakes = [flat[i] for i, other in enumerate(names) if other == name]
        keys = [
            key
            for key in dict.fromkeys(key for entries in namesakes for key in entries)
            if len({repr(entries.get(key)) for entries in namesakes}) > 1
        ]
        parts = [f"{key.rpartition('.')[2]}={flat[index].get(key)}" for key in keys[:_MOST_NAMED]]
        more = ["..."] if len(keys) > _MOST_NAMED else []
        labels.append(" ".join([name, ", ".join([*parts, *more])]).strip())
        if labels[-1] in labels[:-1]:
            labels[-1] += f" {group[0].path.resolve().name}"
    return labels


def _entries(content: Any, where: str) -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        path = f"{where}.{key}" if where else str(key)
        if path in _ASIDE:
            continue
        if isinstance(value, Mapping):
            yield from _entries(value, path)
        else:
            yield path, value
