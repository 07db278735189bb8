"""Monitoring: sinks of one stream of metrics, and of what else there is to show of a run."""

from mbrl.monitoring.chart import chart_figure, draw_chart, write_columns
from mbrl.monitoring.console import Console
from mbrl.monitoring.csv_file import CsvFile
from mbrl.monitoring.landscape import draw_surface
from mbrl.monitoring.open_loop import column_errors, draw_open_loop, open_loop_figure
from mbrl.monitoring.options import MonitorOptions, PlotOptions, VideoOptions
from mbrl.monitoring.progress import Progress
from mbrl.monitoring.stream import MetricStream, Row, Sink
from mbrl.monitoring.video import Filmstrip, Frame, write_video

__all__ = [
    "Console",
    "CsvFile",
    "Filmstrip",
    "Frame",
    "MetricStream",
    "MonitorOptions",
    "PlotOptions",
    "Progress",
    "Row",
    "Sink",
    "VideoOptions",
    "chart_figure",
    "column_errors",
    "draw_chart",
    "draw_open_loop",
    "draw_surface",
    "open_loop_figure",
    "write_columns",
    "write_video",
]
