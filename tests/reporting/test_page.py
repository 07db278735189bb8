"""The page: what it says, and that it needs nothing but itself."""

import base64
import math
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import imageio.v2
import numpy as np
import pytest

from mbrl.errors import ConfigError, StorageError
from mbrl.reporting import ReportOptions, html, write_report
from tests.reporting.recorded import curves, folder

SUMMARY = {"eval_return_mean": 12.25, "eval_return_std": 1.5, "wall_s": 2.0}
FETCHING = ("src", "href", "srcset", "poster", "data", "action", "background")


class Page(HTMLParser):
    """Collects tags, rows of tables, what is fetched, and texts."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.fetched, self.links, self.rows, self.texts = [], [], [], [], []
        self._cell = None
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if name in FETCHING:
                (self.links if tag == "a" else self.fetched).append(value)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self._cell = []

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.rows[-1].append("".join(self._cell))
            self._cell = None

    def handle_data(self, data):
        self.texts.append(data)
        if self._cell is not None:
            self._cell.append(data)

    def media(self, kind):
        return [
            base64.b64decode(value.split("base64,")[1])
            for value in self.fetched
            if value.startswith(f"data:{kind};")
        ]


@pytest.fixture
def finished(tmp_path):
    """Return the folder of a finished run with a video and two plots of a kind."""
    path = folder(tmp_path / "runs" / "one", curves([1.0, 2.0, 4.0]), SUMMARY)
    for name in ("plots", "videos"):
        (path / name).mkdir()
    for update, shade in ((1, 10), (12, 200)):
        picture = np.full((4, 5, 3), shade, dtype=np.uint8)
        imageio.v2.imwrite(path / "plots" / f"open_loop_{update:04}.png", picture)
    (path / "videos" / "episode.mp4").write_bytes(b"moving")
    imageio.v2.imwrite(path / "videos" / "episode.png", np.zeros((4, 9, 3), dtype=np.uint8))
    return path


def test_nothing_is_fetched_from_anywhere(finished):
    page = Page(write_report([finished]))
    assert page.fetched
    assert all(value.startswith("data:") for value in page.fetched)
    assert not {"script", "link", "iframe", "object", "embed", "base"} & set(page.tags)
    assert re.findall(r"url\(|@import|https?://", page.source) == []
    for svg in page.media("image/svg+xml"):
        root = ElementTree.fromstring(svg)
        for element in root.iter():
            for name, value in element.attrib.items():
                if name.endswith("href"):
                    assert value.startswith("#")
        assert b"DOCTYPE" not in svg
    assert "default-src 'none'" in page.source


def test_the_table_of_runs(finished, tmp_path):
    going = folder(tmp_path / "runs" / "going", curves([5.0]), seed=7)
    unbegun = folder(tmp_path / "runs" / "unbegun", seed=8)
    page = Page(write_report([finished, going, unbegun]))
    head, *rows = page.rows[:4]
    first, second, third = (dict(zip(head, row, strict=True)) for row in rows)
    assert first["run"] == "one"
    assert (first["state"], first["updates"], first["env_steps"]) == ("finished", "3", "30")
    assert (first["return_mean"], first["eval_return_mean"]) == ("4", "12.25")
    assert second["state"] == "update 1 of 3, not finished"
    assert (second["seed"], second["return_mean"], second["eval_return_mean"]) == ("7", "5", "")
    assert (third["state"], third["return_mean"]) == ("update 0 of 3, not finished", "")


def test_the_table_over_seeds(tmp_path):
    paths = [
        folder(tmp_path / str(seed), curves([1.0]), {"eval_return_mean": value}, seed=seed)
        for seed, value in enumerate((1.0, 2.0, 3.0))
    ]
    paths.append(folder(tmp_path / "going", curves([1.0]), seed=9))
    page = Page(write_report(paths))
    at = next(i for i, row in enumerate(page.rows) if row[0] == "configuration")
    assert page.rows[at + 1] == ["made", "4", "3", "2", "-0.4841 to 4.484", "1", "3"]


def test_a_curve_a_column_and_the_return_by_three_clocks(finished):
    page = Page(write_report([finished]))
    drawn = [svg.decode() for svg in page.media("image/svg+xml")]
    assert len(drawn) == 3
    labels = [set(re.findall(r">([\w ]+)</text>", svg)) for svg in drawn]
    for found, clock in zip(
        labels, ("update", "environment steps", "seconds of training"), strict=True
    ):
        assert {"return_mean", clock, "made"} <= found


def test_runs_share_their_curves(finished, tmp_path):
    columns = {**curves([1.0, 2.0]), "loss": [3.0, 4.0]}
    other = folder(tmp_path / "other", columns, name="other")
    page = Page(write_report([finished, other]))
    drawn = [svg.decode() for svg in page.media("image/svg+xml")]
    named = [{name for name in ("made", "other") if f">{name}</text>" in svg} for svg in drawn]
    assert named == [{"made", "other"}] * 3 + [{"other"}]


def test_what_never_changes_is_said_not_drawn(tmp_path):
    steady = {
        "horizon": [80.0, 80.0],
        "loss": [3.0, 4.0],
        "batch": [4.0, 4.0],
        "lost": [math.nan] * 2,
    }
    one = folder(tmp_path / "one", {**curves([1.0, 2.0]), **steady})
    two = folder(tmp_path / "two", {**curves([1.0, 2.0]), **steady, "batch": [8.0, 8.0]}, name="b")
    page = Page(write_report([one, two]))
    drawn = "".join(svg.decode() for svg in page.media("image/svg+xml"))
    assert ">loss</text>" in drawn
    assert ">batch</text>" in drawn  # not the same for both
    assert ">horizon</text>" not in drawn
    assert "the same all the time: horizon 80" in page.texts  # and nothing of what is lost
    assert ">lost</text>" not in drawn


def test_media_are_part_of_the_page(finished):
    page = Page(write_report([finished]))
    assert page.media("video/mp4") == [b"moving"]
    pictures = [imageio.v2.imread(content) for content in page.media("image/png")]
    shapes = [picture.shape for picture in pictures]
    assert shapes[1:] == [(4, 9, 3), (4, 5, 3)]  # after the graph
    assert (pictures[2] > 150).all()  # the plot of update 12
    assert pictures[0].shape[1] > 500


def test_large_media_are_linked_to(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(html, "_LARGEST", {".mp4": 3})
    monkeypatch.setattr(html, "_LARGEST_PICTURE", 3)
    file = tmp_path / "a page" / "b.html"
    file.parent.mkdir()
    page = Page(write_report([finished], ReportOptions(file=str(file))))
    assert page.media("video/mp4") == []
    assert "../runs/one/videos/episode.mp4" in page.links
    for target in page.links:
        assert (file.parent / target).resolve().is_file()


def test_a_page_has_a_limit(finished, monkeypatch):
    monkeypatch.setattr(html, "_LARGEST_PAGE", 10)  # the video, and nothing else
    page = Page(write_report([finished]))
    assert page.media("video/mp4") == [b"moving"]
    assert len(page.media("image/png")) == 1  # the graph, which is drawn
    assert "videos/episode.png" in page.links


def test_names_are_no_markup(tmp_path):
    wild = "<script>alert(1)</script>&\"'"
    path = folder(tmp_path / "a", {"update": [1], "<b>": [2.0]}, name=wild)
    page = Page(write_report([path]))
    assert "script" not in page.tags
    assert "b" not in page.tags
    assert wild in page.texts


def test_names_are_no_formulas(tmp_path):
    columns = {**curves([1.0, 2.0]), "$\\frac{$": [1.0, 2.0]}
    run = folder(tmp_path / "a", columns, name="$\\bad$")
    assert "$\\frac{$" in write_report([run]).read_text()


def test_the_configuration_is_there(finished):
    page = Page(write_report([finished]))
    assert (finished / "config.yaml").read_text() in page.texts


def test_algorithms_without_a_graph_show_none(tmp_path):
    for kind in ("mpc", "somebody_elses"):
        path = folder(tmp_path / kind, algorithm={"kind": kind})
        assert Page(write_report([path])).media("image/png") == []


def test_a_graph_of_unknown_nodes_is_said_not_to_be_drawn(tmp_path):
    graph = {"nodes": {"policy": {"kind": "somebody_elses"}}}
    page = Page(write_report([folder(tmp_path / "a", graph=graph)]))
    assert any(text.startswith("not drawn: ") for text in page.texts)


def test_the_same_runs_give_the_same_page(finished):
    first = write_report([finished]).read_bytes()
    assert write_report([finished]).read_bytes() == first


def test_torn_files_are_no_obstacle(tmp_path):
    path = folder(tmp_path / "a", curves([1.0, 2.0]))
    with (path / "metrics.csv").open("a") as file:
        file.write("3,30")
    (path / "summary.json").write_text('{"eval_return_mean": 1')
    page = Page(write_report([path]))
    assert page.rows[1][4:6] == ["update 2 of 3, not finished", "2"]


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="is not the folder of a run"):
        write_report([tmp_path])


def test_a_place_that_is_none_is_named(finished, tmp_path):
    with pytest.raises(StorageError, match=r"b\.html cannot be written: No such file"):
        write_report([finished], ReportOptions(file=str(tmp_path / "none" / "b.html")))
