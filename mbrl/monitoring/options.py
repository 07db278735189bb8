"""The ``monitor`` section of a configuration: what is shown of a run, and how often."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field

from mbrl.errors import ConfigError

_STARTED_AT = ("127.0.0.1", "localhost")  # names of where a server of a run's own listens


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

    The episode is one that the update was made with, or else the first one of an evaluation, by the
    policy as it is then; drawing it takes time beside training. Width and height are the
    environment's own arguments (``task_args``, ``eval_task_args``). Without a display it needs EGL.

    Attributes:
        every: updates between them; 0: none.
        final: whether the first episode of the last evaluation is recorded: videos/episode.mp4.
        seconds: how much of an episode is recorded, in its own time; null: all of it.
    """

    every: int = 0
    final: bool = False
    seconds: float | None = None

    def __post_init__(self) -> None:
        _check_every(self.every)
        if self.seconds is not None and not self.seconds > 0:
            raise ConfigError(f"seconds must be positive or null, got {self.seconds}")


@dataclass(frozen=True)
class VisdomOptions:
    """A dashboard: one environment of a visdom server a run.

    Attributes:
        enabled: whether there is one.
        start: start a server for this run, if there is none at that port; it listens on 127.0.0.1
            alone, and ends with the run. Implies ``enabled``.
        host: where the server is.
        port: and at which port.
        download: whether a server that is started fetches the scripts of its page from the
            internet, which takes once what visdom's own command does.
    """

    enabled: bool = False
    start: bool = False
    host: str = "127.0.0.1"
    port: int = 8097
    download: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65535:
            raise ConfigError(f"port must lie in [1, 65535], got {self.port}")
        if not re.fullmatch(r"[\w.-]+", self.host, flags=re.ASCII):
            raise ConfigError(f"host must be the name of a machine, got {self.host!r}")
        if self.start and self.host not in _STARTED_AT:
            raise ConfigError(
                f"start: a server is started at host 127.0.0.1, not at {self.host}; "
                "legal: enabled=true, or host=127.0.0.1"
            )

    @property
    def is_wanted(self) -> bool:
        """Whether there is to be a dashboard."""
        return self.enabled or self.start

    @property
    def is_loopback(self) -> bool:
        """Whether nobody but this machine hears what the server is told."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def url(self) -> str:
        """Where the server is."""
        return f"http://{self.host}:{self.port}"


@dataclass(frozen=True)
class MonitorOptions:
    """What is shown of a run while it is made; its results do not depend on it.

    Attributes:
        plots: see :class:`PlotOptions`.
        video: see :class:`VideoOptions`.
        tensorboard: whether events for TensorBoard are written, to tensorboard/.
        visdom: see :class:`VisdomOptions`.
    """

    plots: PlotOptions = field(default_factory=PlotOptions)
    video: VideoOptions = field(default_factory=VideoOptions)
    tensorboard: bool = False
    visdom: VisdomOptions = field(default_factory=VisdomOptions)


def _check_every(every: int) -> None:
    if every < 0:
        raise ConfigError(f"every must not be negative, got {every}")
