"""Reports of runs: one HTML page that needs nothing but itself; one table of a sweep."""

from mbrl.reporting.groups import Group, curve, grouped
from mbrl.reporting.options import ReportOptions
from mbrl.reporting.page import write_report
from mbrl.reporting.runs import RunRecord
from mbrl.reporting.statistics import mean_interval, student_quantile
from mbrl.reporting.sweep_table import SweepRow, sweep_columns, sweep_rows, sweep_text

__all__ = [
    "Group",
    "ReportOptions",
    "RunRecord",
    "SweepRow",
    "curve",
    "grouped",
    "mean_interval",
    "student_quantile",
    "sweep_columns",
    "sweep_rows",
    "sweep_text",
    "write_report",
]
