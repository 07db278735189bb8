"""What is drawn in a browser: the dashboard of a run while it goes on, and reports of runs.

With MBRL_SCREENSHOTS=FOLDER pictures of both are left there; those in docs/ were made so.
"""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import chromium
from tests.served import eventually, free_port
from tests.tiny import rows

ROOT = Path(__file__).parents[1]
FEW_MINUTES = 400.0  # of a machine that is busy with something else; a run takes seconds

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        chromium.found() is None,
        reason="there is no Chromium here (Debian: apt install chromium)",
    ),
]

# What the page has drawn: the title of every plot's window, its data, the length of its line.
PLOTS = """
Object.fromEntries([...document.querySelectorAll('.js-plotly-plot')].map(plot => [
    plot.closest('.window').querySelector('.bar div.pull-right').textContent,
    {
        x: Array.from(plot.data[0].x), y: Array.from(plot.data[0].y),
        drawn: plot.querySelector('.scatterlayer .js-line')?.getTotalLength() ?? 0,
    },
]))
"""
WINDOW = """
[...document.querySelectorAll('.window')].find(
    window => window.querySelector('.bar div.pull-right').textContent == '{title}'
)
"""
# A picture counts once it is drawn with pixels of its own: how many colours it has.
COLORS = """
(picture => {
    const canvas = document.createElement('canvas');
    canvas.width = picture.naturalWidth || picture.videoWidth;
    canvas.height = picture.naturalHeight || picture.videoHeight;
    if (!canvas.width || !canvas.height) return 0;
    const context = canvas.getContext('2d');
    context.drawImage(picture, 0, 0);
    const pixels = new Uint32Array(
        context.getImageData(0, 0, canvas.width, canvas.height).data.buffer
    );
    return new Set(pixels).size;
})
"""

NO_CURVES = ("update", "env_steps", "wall_s", "return_mean")  # the last: three, over each of these
# How many pixels have the first colour of charts, and how many the same, paler.
PIXELS = """
(picture => {{
    const canvas = document.createElement('canvas');
    canvas.width = picture.naturalWidth; canvas.height = picture.naturalHeight;
    const context = canvas.getContext('2d');
    context.drawImage(picture, 0, 0);
    const {{data}} = context.getImageData(0, 0, canvas.width, canvas.height);
    const near = (i, color) => color.every((value, k) => Math.abs(data[i + k] - value) < 12);
    let found = [0, 0];
    for (let i = 0; i < data.length; i += 4) {{
        if (near(i, [0xd1, 0x49, 0x5b])) found[0]++;
        if (near(i, [0xf6, 0xdb, 0xde])) found[1]++;  // a fifth of it, on white
    }}
    return found;
}})({picture})
"""


def has_scripts():
    visdom = pytest.importorskip("visdom")
    return (Path(visdom.__file__).parent / "static" / "version.built").exists()


def screenshot(page, name, tmp_path):
    page.screenshot(Path(os.environ.get("MBRL_SCREENSHOTS", tmp_path)) / f"{name}.png")


@contextlib.contextmanager
def training(folder, *changes):
    """Train the inverted pendulum by main.py; give the process and the dashboard's URL."""
    output = folder / "run.txt"
    with output.open("wb") as file:
        process = subprocess.Popen(
            [
                sys.executable, "main.py", "--config-file", "configs/inverted_pendulum.yaml",
                f"output_dir={folder}", f"monitor.visdom.port={free_port()}",
                "monitor.visdom.start=true", "monitor.visdom.download=false", "threads=1", *changes,
            ],
            cwd=ROOT, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
        )  # fmt: skip

    def said(start):
        lines = output.read_text().splitlines()
        return next((line for line in lines if line.startswith(start)), None)

    try:
        eventually(lambda: said("visdom: ") or process.poll() is not None, FEW_MINUTES)
        url = said("visdom: ")
        assert url is not None, output.read_text()
        yield process, url.removeprefix("visdom: ")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
        assert said("warning") is None, output.read_text()


def table(folder):
    """Return {update: row} of metrics.csv of the run in a folder."""
    (path,) = (folder / "inverted_pendulum").glob("*-seed0")
    return {float(row["update"]): row for row in rows(path)}


@contextlib.contextmanager
def held(process):
    """Stop a process for a while, so that what is shown of it stays as it is."""
    assert process.poll() is None
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def test_the_dashboard_of_a_run_that_goes_on(tmp_path):
    if not has_scripts():
        pytest.skip("visdom's page has no scripts here (python .ci/visdom_scripts.py fetches them)")
    videos = ["monitor.video.every=20", "monitor.video.seconds=6"]
    with (
        training(tmp_path, "algorithm.updates=100000", *videos) as (run, url),
        chromium.chromium(tmp_path / "profile") as browser,
    ):
        page = browser.page(url, width=1280, height=1015)
        first = page.until(f"(plots => plots.return_mean && plots)({PLOTS})", FEW_MINUTES)
        seen = len(first["return_mean"]["x"])
        page.until(f"{PLOTS}.return_mean.x.length >= {max(25, seen + 5)}", FEW_MINUTES)
        page.until("document.querySelector('video') != null", FEW_MINUTES)
        with held(run):
            check_curves(page.evaluate(PLOTS), table(tmp_path))
            graph = f"{WINDOW.format(title='graph')}.querySelector('img')"
            page.until(f"{COLORS}({graph}) > 50")
            configuration = page.evaluate(f"{WINDOW.format(title='configuration')}.innerText")
            assert "task: mbrl/SmoothInvertedPendulum-v0" in configuration
            assert "updates: 100000" in configuration
            # It plays by itself, and its controls disappear after three seconds.
            page.until("document.querySelector('video').currentTime > 3.5")
            assert page.evaluate("document.querySelector('video').videoWidth") == 480
            assert page.evaluate(f"{COLORS}(document.querySelector('video'))") > 50
            screenshot(page, "dashboard", tmp_path)
        assert page.complaints == []
        assert {request.split("/")[2] for request in page.requests} == {url.split("/")[2]}


def check_curves(plots, metrics):
    """Check that what is drawn is what metrics.csv says."""
    for name in ("return_mean", "gradient_norm"):
        shown = dict(zip(plots[name]["x"], plots[name]["y"], strict=True))
        assert shown == {update: float(metrics[update][name]) for update in shown}
        assert plots[name]["drawn"] > 100  # pixels
    assert plots["action_gradient_norm"]["x"] == [*range(80)]
    assert plots["action_mean"]["drawn"] > 100


def main(*arguments):
    """Run main.py; return the lines that it prints."""
    done = subprocess.run(
        [sys.executable, "main.py", *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.splitlines()


@pytest.fixture
def offline(tmp_path):
    """Give a browser that finds no other machine."""
    with chromium.chromium(
        tmp_path / "profile", "--host-resolver-rules=MAP * ~NOTFOUND"
    ) as browser:
        yield browser


def test_a_report_opens_from_the_file_system_without_network(offline, tmp_path):
    said = main(
        "--config-file", "configs/inverted_pendulum.yaml", f"output_dir={tmp_path}",
        "algorithm.updates=20", "evaluation.episodes=1", "monitor.video.final=true",
        "monitor.video.seconds=3", "-m", "seed=0,1,2",
    )  # fmt: skip
    runs = [line.partition("run_dir=")[2] for line in said if "run_dir=" in line]
    (line,) = main("--mode", "report", "--run", *runs)
    report = Path(line.removeprefix("report="))
    page = offline.page(report.as_uri(), width=1280, height=1015, offline=True)

    pictures = page.evaluate("[...document.images].map(i => [i.complete, i.naturalWidth > 0])")
    assert pictures == [[True, True]] * len(pictures)
    made = [row for run in runs for row in rows(Path(run))]
    changing = [column for column in made[0] if len({row[column] for row in made}) > 1]
    curves = [column for column in changing if column not in NO_CURVES]
    assert page.evaluate("document.querySelectorAll('img.svg').length") == len(curves) + 3
    # The line of the return is drawn in its colour, and so is the band of its interval, paler.
    line, band = page.evaluate(PIXELS.format(picture="document.querySelector('img.svg')"))
    assert line > 200
    assert band > 500
    graph = "[...document.images].find(image => image.alt == 'computation graph')"
    assert page.evaluate(f"{COLORS}({graph})") > 50
    assert page.evaluate("document.querySelectorAll('video').length") == 3
    page.evaluate("document.querySelector('video').play()")
    page.until("document.querySelector('video').currentTime > 0.2")
    assert page.evaluate(f"{COLORS}(document.querySelector('video'))") > 50
    text = page.evaluate("document.body.innerText")
    assert all(Path(run).name in text for run in runs)
    assert "95 % interval" in text

    screenshot(page, "report", tmp_path)
    assert page.requests == [report.as_uri()]
    assert page.complaints == []


def test_what_a_page_asks_for_in_vain_is_seen(offline, tmp_path):
    path = tmp_path / "page.html"
    path.write_text("<img src='http://example.org/a.png'><script>console.error('x'); y()</script>")
    page = offline.page(path.as_uri())
    page.until("document.images[0].complete")
    assert page.requests == [path.as_uri(), "http://example.org/a.png"]
    assert [complaint for complaint in page.complaints if "y is not defined" in complaint]
    assert [complaint for complaint in page.complaints if "ERR_" in complaint]
    assert len(page.complaints) == 3
