"""Monitoring: sinks of one stream of metrics."""

from mbrl.monitoring.console import Console
from mbrl.monitoring.csv_file import CsvFile
from mbrl.monitoring.landscape import draw_surface
from mbrl.monitoring.progress import Progress
from mbrl.monitoring.stream import MetricStream, Row, Sink

__all__ = ["Console", "CsvFile", "MetricStream", "Progress", "Row", "Sink", "draw_surface"]
