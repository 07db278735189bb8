"""Is a model differentiable where a task goes, how exactly, and what gets in the way."""

from mbrl.checking.report import check
from mbrl.checking.visits import Visits, visits

__all__ = ["Visits", "check", "visits"]
