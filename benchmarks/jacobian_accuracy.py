"""Errors of the Jacobians, per model, method, integrator and frame skip.

    python benchmarks/jacobian_accuracy.py [--states 12] [--models HalfCheetah ball ...]

The reference is made of centred differences along mj_integratePos of serial mj_step calls with the
constraint solver at tolerance 0, of two sizes, extrapolated. An error is the Frobenius norm of the
difference of [A B] over that of the reference. The median is over all states; the worst is over
those where the two sizes agree to 2e-5. The others, counted as "kinks", lie next to a switch of
contacts or limits, where there is no Jacobian to speak of.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mbrl.errors import ModelError  # noqa: E402
from mbrl.physics import Simulator  # noqa: E402
from mbrl.physics.linearization import METHODS  # noqa: E402
from tests import models  # noqa: E402
from tests.models import reference  # noqa: E402

HEADER = ("model", "integrator", "skip", "method", "differences", "median", "worst", "kinks")
ROW = "{:23} {:13} {:>4}  {:11} {:11} {:>8} {:>8} {:>6}"


def variants(name):
    """Yield the compiled models under a name, with the names of their integrators."""
    if name in models.OWN:
        for integrator in models.INTEGRATORS:
            yield integrator, models.own(name, integrator)
        return
    shipped = models.stock(name)
    names = {int(value): key for key, value in models.INTEGRATORS.items()}
    yield names[shipped.opt.integrator], shipped
    if names[shipped.opt.integrator] == "RK4":  # method "transition" refuses it
        other = models.stock(name)
        other.opt.integrator = models.INTEGRATORS["Euler"]
        yield "Euler", other


def measure(case):
    """Yield (method, centered, median, worst) for every method that takes the case's model."""
    sim = Simulator(case.model, frame_skip=case.frame_skip)
    for method in METHODS:
        for centered in (False, True):
            try:
                found = sim.linearize(case.states, case.ctrls, method=method, centered=centered)
            except ModelError:
                continue
            yield method, centered, *case.errors(found)


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--states", type=int, default=12, help="states of each model")
    parser.add_argument("--models", nargs="+", default=[*models.STOCK, *models.OWN])
    arguments = parser.parse_args()
    print(ROW.format(*HEADER))
    for name in arguments.models:
        for integrator, model in variants(name):
            for frame_skip in (1, 5):
                case = reference.Case(model, arguments.states, frame_skip=frame_skip)
                kinks = int((~case.trusted).sum())
                for method, centered, median, worst in measure(case):
                    print(
                        ROW.format(
                            name,
                            integrator,
                            frame_skip,
                            method,
                            "centred" if centered else "forward",
                            f"{median:.0e}",
                            f"{worst:.0e}",
                            kinks,
                        ),
                        flush=True,
                    )


if __name__ == "__main__":
    main()
