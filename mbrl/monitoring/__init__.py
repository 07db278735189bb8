"""Monitoring: sinks of one stream of metrics, and of what else there is to show of a run."""

from mbrl.monitoring.chart import chart_figure, draw_chart, write_columns
from mbrl.monitoring.console import Console
from mbrl.monitoring.csv_file import CsvFile, read_metrics
from mbrl.monitoring.dashboards import dashboards
from mbrl.monitoring.landscape import draw_surface
from mbrl.monitoring.open_loop import column_errors, draw_open_loop, open_loop_figure
from mbrl.monitoring.options import MonitorOptions, PlotOptions, VideoOptions, VisdomOptions
from mbrl.monitoring.progress import Progress
from mbrl.monitoring.stream import Dispensable, MetricStream, Picture, Row, Sink
from mbrl.monitoring.video import Filmstrip, Frame, write_video

__all__ = [
    "Console",
    "CsvFile",
    "Dispensable",
    "Filmstrip",
    "Frame",
    "MetricStream",
    "MonitorOptions",
    "Picture",
    "PlotOptions",
    "Progress",
    "Row",
    "Sink",
    "VideoOptions",
    "VisdomOptions",
    "chart_figure",
    "column_errors",
    "dashboards",
    "draw_chart",
    "draw_open_loop",
    "draw_surface",
    "open_loop_figure",
    "read_metrics",
    "write_columns",
    "write_video",
]
