"""What TensorBoard and a visdom dashboard cost a run, as shares of its time.

    python benchmarks/monitoring_overhead.py [--config-file FILE] [--updates N] [--port PORT]

Trains once with both, and a visdom server of its own, and prints the processor time spent on
showing: by the thread that trains, which has to wait for it; by threads beside it; and by the
server, which is a process of its own. It is measured in that run, not as the difference of two,
which other jobs of the machine would drown. One thread for the engine and for torch.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import mbrl
from mbrl.showing import Showing

DEFAULT = Path(__file__).parent.parent / "configs" / "inverted_pendulum.yaml"
SHOWN = ("__init__", "begin", "before_update", "after_update", "exhibit", "finish", "close")


def clocked(owner: type, names: tuple[str, ...]) -> list[float]:
    """Add the training thread's processor time in methods to the list that is returned."""
    spent: list[float] = []
    for name in names:
        function = getattr(owner, name)

        def timed(*args, function=function, **kwargs):
            began = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                spent.append(time.thread_time() - began)

        setattr(owner, name, timed)
    return spent


def processor(who: int) -> float:
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Print the shares."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", default=str(DEFAULT))
    parser.add_argument("--updates", type=int, default=500)
    parser.add_argument("--port", type=int, default=8197)
    options = parser.parse_args()
    spent = clocked(Showing, SHOWN)
    with tempfile.TemporaryDirectory() as folder:
        config = mbrl.load_config(
            options.config_file,
            [
                f"algorithm.updates={options.updates}", f"output_dir={folder}", "threads=1",
                "torch_threads=1", "monitor.tensorboard=true", "monitor.visdom.start=true",
                f"monitor.visdom.port={options.port}", "monitor.visdom.download=false",
            ],
        )  # fmt: skip
        training, whole = time.thread_time(), processor(resource.RUSAGE_SELF)
        result = mbrl.run(config)
        training = time.thread_time() - training
        beside = processor(resource.RUSAGE_SELF) - whole - training
        server = processor(resource.RUSAGE_CHILDREN)
    shown = sum(spent)
    own, wall = training - shown, result.summary["total_s"]
    print(
        f"{options.updates} updates of {Path(options.config_file).name}: {wall:.1f} s on the "
        f"clock, of which the processor spent {own:.1f} s on the run itself"
    )
    for label, seconds in (
        ("in the thread that trains", shown),
        ("in threads beside it", beside),
        ("in the visdom server", server),
        ("all together", shown + beside + server),
    ):
        print(f"  {seconds:7.2f} s  {100 * seconds / wall:5.2f} % of the clock  {label}")


if __name__ == "__main__":
    main()
