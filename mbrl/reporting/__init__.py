"""Reports of runs: one HTML page that needs nothing but itself."""

from mbrl.reporting.groups import Group, curve, grouped
from mbrl.reporting.options import ReportOptions
from mbrl.reporting.page import write_report
from mbrl.reporting.runs import RunRecord
from mbrl.reporting.statistics import mean_interval, student_quantile

__all__ = [
    "Group",
    "ReportOptions",
    "RunRecord",
    "curve",
    "grouped",
    "mean_interval",
    "student_quantile",
    "write_report",
]
