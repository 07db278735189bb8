"""Episodes in terms of what was observed: what models of the dynamics are fitted to."""

from __future__ import annotations

import contextlib
import os
import pickle
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mbrl.errors import ArgumentError, StorageError, one_line
from mbrl.types import Transitions

_KEYS = ("observations", "actions", "rewards", "lengths")
_UNREADABLE = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
    pickle.UnpicklingError,
)


class Episode(NamedTuple):
    """T steps in a row, T > 0; the last observation is where the last step led."""

    observations: Tensor  # [T+1, n_obs] float64
    actions: Tensor  # [T, nu] float64
    rewards: Tensor  # [T] float64


class Windows(NamedTuple):
    """Stretches of episodes, L steps each: to hold predictions over many steps against."""

    observations: Tensor  # [N, L+1, n_obs]
    actions: Tensor  # [N, L, nu]


class Trajectories:
    """Episodes of any lengths, in the order in which they were appended.

    Everything is kept in double precision on the CPU: the differences of observations over a short
    time lose too much in single.

    Args:
        observation_size: n_obs.
        action_size: nu.
    """

    def __init__(self, observation_size: int, action_size: int):
        self.observation_size, self.action_size = observation_size, action_size
        self._episodes: list[Episode] = []

    def __len__(self) -> int:
        """How many episodes there are."""
        return len(self._episodes)

    @property
    def episodes(self) -> tuple[Episode, ...]:
        """All of them; not copies."""
        return tuple(self._episodes)

    @property
    def steps(self) -> int:
        """How many steps there are in all episodes together."""
        return sum(len(episode.actions) for episode in self._episodes)

    @torch.no_grad()
    def append(self, episodes: Iterable[Episode]) -> None:
        """Put in copies of episodes, all or none of them.

        Raises:
            ArgumentError: if one has another shape, no step, or a number that is not finite.
        """
        self._episodes += [self._checked(episode) for episode in episodes]

    def transitions(self) -> Transitions:
        """Return every step of every episode, in order."""
        episodes = self._episodes
        before = [episode.observations[:-1] for episode in episodes]
        after = [episode.observations[1:] for episode in episodes]
        actions = [episode.actions for episode in episodes]
        return Transitions(
            _joined(before, (self.observation_size,)),
            _joined(actions, (self.action_size,)),
            _joined(after, (self.observation_size,)),
            _joined([episode.rewards for episode in episodes], ()),
        )

    def windows(self, length: int, *, stride: int = 1) -> Windows:
        """Return the stretches of ``length`` steps that begin at every ``stride``-th step.

        None crosses from one episode into the next; episodes that are shorter have none.

        Raises:
            ArgumentError: if ``length`` or ``stride`` is less than 1.
        """
        for name, value in (("length", length), ("stride", stride)):
            if value < 1:
                raise ArgumentError(f"{name} must be at least 1, got {value}")
        long = [episode for episode in self._episodes if len(episode.actions) >= length]
        seen = [e.observations.unfold(0, length + 1, stride).transpose(1, 2) for e in long]
        done = [e.actions.unfold(0, length, stride).transpose(1, 2) for e in long]
        return Windows(
            _joined(seen, (length + 1, self.observation_size)),
            _joined(done, (length, self.action_size)),
        )

    def split(
        self, held_out: float, generator: torch.Generator
    ) -> tuple[Trajectories, Trajectories]:
        """Return (training, held out), a random share ``held_out`` of [0, 1) of the episodes.

        Steps of one episode resemble each other: a model is judged fairly on other episodes only.

        Raises:
            ArgumentError: if ``held_out`` is out of range.
        """
        return tuple(  # type: ignore[return-value]  # there are two
            self._part(rows) for rows in _split(len(self), held_out, generator)
        )

    def state_dict(self) -> dict[str, Tensor]:
        """Return all episodes, one after the other, and their lengths."""
        n_obs, nu = self.observation_size, self.action_size
        episodes = self._episodes
        return {
            "observations": _joined([episode.observations for episode in episodes], (n_obs,)),
            "actions": _joined([episode.actions for episode in episodes], (nu,)),
            "rewards": _joined([episode.rewards for episode in episodes], ()),
            "lengths": torch.tensor([len(e.actions) for e in episodes], dtype=torch.int64),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what :meth:`state_dict` returned.

        Raises:
            ArgumentError: if that is not of this kind or of these sizes; nothing changes then.
        """
        missing = [key for key in _KEYS if key not in state]
        if missing:
            raise ArgumentError(f"trajectories lack {', '.join(missing)}")
        lengths = state["lengths"]
        if lengths.ndim != 1 or lengths.is_floating_point() or bool((lengths < 1).any()):
            raise ArgumentError("lengths of trajectories must be positive integers")
        counts: list[int] = lengths.tolist()
        for key, count in (
            ("observations", sum(counts) + len(counts)),
            ("actions", sum(counts)),
            ("rewards", sum(counts)),
        ):
            found = len(state[key]) if state[key].ndim else "a number"
            if found != count:
                raise ArgumentError(f"{key} of trajectories must be {count} rows, got {found}")
        parts = (
            state["observations"].split([count + 1 for count in counts]),
            state["actions"].split(counts),
            state["rewards"].split(counts),
        )
        self._episodes = [self._checked(Episode(*one)) for one in zip(*parts, strict=True)]

    def save(self, path: str | Path) -> None:
        """Write everything to an .npz file, which replaces one of that name at once or not at all.

        Raises:
            StorageError: if it cannot be written.
        """
        path = Path(path)
        arrays = {key: value.numpy() for key, value in self.state_dict().items()}
        unfinished = path.with_name(f"{path.name}.part")
        try:
            with unfinished.open("wb") as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]  # its own keyword is a bool
            os.replace(unfinished, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                unfinished.unlink()
            raise StorageError(f"{path}: cannot be written: {one_line(error)}") from error

    @classmethod
    def load(cls, path: str | Path) -> Trajectories:
        """Read what :meth:`save` wrote; nothing in the file is executed.

        Raises:
            ArgumentError: naming the file, if it cannot be read or holds something else.
        """
        try:
            with Path(path).open("rb") as file:
                arrays = np.load(file, allow_pickle=False)
                if not isinstance(arrays, np.lib.npyio.NpzFile):
                    raise ValueError("one array, and no .npz file")
                state = {key: torch.from_numpy(arrays[key]) for key in _KEYS}
            shapes = state["observations"].shape, state["actions"].shape
            if not all(len(shape) == 2 for shape in shapes):
                raise ValueError("observations and actions must have two dimensions")
            found = cls(shapes[0][1], shapes[1][1])
            found.load_state_dict(state)
        except (*_UNREADABLE, TypeError) as error:
            raise ArgumentError(
                f"{path}: cannot be read as trajectories: {one_line(error)}"
            ) from error
        return found

    def _part(self, rows: Tensor) -> Trajectories:
        part = Trajectories(self.observation_size, self.action_size)
        part._episodes = [self._episodes[row] for row in rows.tolist()]
        return part

    def _checked(self, episode: Episode) -> Episode:
        """Return a copy of an episode in double precision."""
        steps = len(episode.actions)
        wanted = {
            "observations": [steps + 1, self.observation_size],
            "actions": [steps, self.action_size],
            "rewards": [steps],
        }
        for (name, shape), found in zip(wanted.items(), episode, strict=True):
            if list(found.shape) != shape:
                raise ArgumentError(
                    f"{name} of an episode must have shape {shape}, got {list(found.shape)}"
                )
            if not found.isfinite().all():
                raise ArgumentError(f"{name} of an episode must be finite")
        if steps == 0:
            raise ArgumentError("an episode must have a step")
        return Episode(*(part.detach().to("cpu", torch.float64, copy=True) for part in episode))


def split_transitions(
    transitions: Transitions, held_out: float, generator: torch.Generator
) -> tuple[Transitions, Transitions]:
    """Return (training, held out), a random share ``held_out`` of [0, 1) in the second.

    Raises:
        ArgumentError: if ``held_out`` is out of range.
    """

    def part(rows: Tensor) -> Transitions:
        return Transitions(*(None if field is None else field[rows] for field in transitions))  # type: ignore[arg-type]  # only rewards may be None

    training, rest = _split(len(transitions.states), held_out, generator)
    return part(training), part(rest)


def _joined(parts: list[Tensor], shape: tuple[int, ...]) -> Tensor:
    return torch.cat(parts) if parts else torch.zeros(0, *shape, dtype=torch.float64)


def _split(count: int, held_out: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the rows, ascending, of which a share is held out; the first part is never empty."""
    if not 0 <= held_out < 1:
        raise ArgumentError(f"held_out must be a share from 0 to below 1, got {held_out}")
    order = torch.randperm(count, generator=generator)
    rest = min(round(held_out * count), max(count - 1, 0))
    return order[rest:].sort().values, order[:rest].sort().values
