"""The ``monitor`` section of a configuration: what is shown of a run, and how often."""

from __future__ import annotations

from dataclasses import dataclass, field

from mbrl.errors import ConfigError


@dataclass(frozen=True)
class PlotOptions:
    """Pictures of what an algorithm has to show: plots/open_loop_0003.png after update 3.

    Attributes:
        every: updates between them; 0: none.
    """

    every: int = 1

    def __post_init__(self) -> None:
        _check_every(self.every)


@dataclass(frozen=True)
class VideoOptions:
    """Videos of episodes: videos/update_0003.mp4, and a filmstrip .png, after update 3.

    The episode is one that the update was made with; drawing it takes time beside training. Width
    and height are the environment's own arguments (``task_args``). Without a display it needs EGL.

    Attributes:
        every: updates between them; 0: none.
    """

    every: int = 0

    def __post_init__(self) -> None:
        _check_every(self.every)


@dataclass(frozen=True)
class MonitorOptions:
    """What is shown of a run while it is made; its results do not depend on it.

    Attributes:
        plots: see :class:`PlotOptions`.
        video: see :class:`VideoOptions`.
    """

    plots: PlotOptions = field(default_factory=PlotOptions)
    video: VideoOptions = field(default_factory=VideoOptions)


def _check_every(every: int) -> None:
    if every < 0:
        raise ConfigError(f"every must not be negative, got {every}")
