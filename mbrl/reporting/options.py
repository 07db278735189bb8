"""What can be said about a report on the command line: ``report.*``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ReportOptions:
    """Where a report goes.

    Attributes:
        file: the page; null: report.html in the folder of the run, of several in that of the first.
    """

    file: str | None = None
