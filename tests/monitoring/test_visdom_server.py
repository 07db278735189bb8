"""The dashboard on a real visdom server."""

import base64
import io
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import imageio.v2
import numpy as np
import pytest

from mbrl.monitoring import Picture, VisdomOptions
from mbrl.monitoring.visdom import Visdom
from mbrl.monitoring.visdom_process import VisdomProcess
from tests.served import answers, eventually, free_port, server, windows

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc")

ROOT = Path(__file__).parents[2]
LOOPBACK = "0100007F"  # 127.0.0.1 as /proc/net/tcp writes it
LISTENING = "0A"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with server(tmp_path_factory.mktemp("store")) as found:
        yield found


def listening_addresses(port):
    """Return the local addresses, in hexadecimal, at which somebody listens to a port."""
    found = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            address, found_port = local.split(":")
            if state == LISTENING and int(found_port, 16) == port:
                found.append(address)
    return found


def test_it_listens_to_this_machine_alone(served):
    options, _ = served
    assert listening_addresses(options.port) == [LOOPBACK]


def test_signals_from_the_terminal_are_not_for_it(served):
    _, process = served
    assert os.getpgid(process.pid) != os.getpgid(0)
    assert os.getsid(process.pid) != os.getsid(0)


def test_windows_have_the_data(served, tmp_path):
    options, _ = served
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    imageio.v2.imwrite(tmp_path / "a.png", pixels)
    (tmp_path / "a.mp4").write_bytes(b"no video, but these bytes")
    failures = []
    sink = Visdom(options, "data", warn=failures.append, say=lambda line: None, store=tmp_path)
    for update in (1, 2, 3):
        sink.write({"update": update, "wall_s": 0.1, "loss": [1.5, np.nan, np.inf][update - 1]})
        sink.write({"update": update, "wall_s": 0.1, "return_mean": 2.0 * update})
    sink.diagnose(3, {"action_mean": np.arange(6.0).reshape(3, 2), "share": np.array(0.5)})
    sink.show(Picture("graph", tmp_path / "a.png", 0))
    sink.show(Picture("video", tmp_path / "a.mp4", 3))
    sink.tell("configuration", "seed: <0>\n")
    sink.close()
    assert failures == []
    found = windows(options, "data")
    (curve,) = found["return_mean"]["content"]["data"]
    assert (curve["x"], curve["y"]) == ([1, 2, 3], [2, 4, 6])
    (curve,) = found["loss"]["content"]["data"]
    assert curve["y"] == [1.5, None, None]
    curves = found["action_mean"]["content"]["data"]
    assert [c["y"] for c in curves] == [[0, 2, 4], [1, 3, 5]]
    assert found["share"]["content"]["data"][0]["y"] == [0.5]
    data = re.search('src="data:image/png;base64,(.*?)"', found["graph"]["content"])[1]
    shown = imageio.v2.imread(io.BytesIO(base64.b64decode(data)))
    np.testing.assert_array_equal(shown, pixels)
    data = re.search('src="data:video/mp4;base64,(.*?)"', found["video"]["content"])[1]
    assert base64.b64decode(data) == b"no video, but these bytes"
    assert "after update 3" in found["video"]["content"]
    assert found["configuration"]["content"] == "<pre>seed: &lt;0&gt;\n</pre>"
    assert len(found) == 7


class Page:
    """What visdom sends windows to."""

    def __init__(self):
        self.windows = {}

    def write_message(self, message):
        if isinstance(message, dict):
            self.windows[message["title"]] = message


def test_runs_are_compared_by_visdom(served, tmp_path):
    """Its comparison puts curves of the same title of several environments into one window."""
    from visdom.utils.server_utils import compare_envs

    options, _ = served
    for env, loss in (("a_1", 3.0), ("a_2", 4.0)):
        sink = Visdom(options, env, warn=print, say=lambda line: None, store=tmp_path)
        sink.write({"update": 1, "loss": loss})
        sink.diagnose(1, {"action_mean": loss * np.ones((3, 2))})
        sink.close()
    state = {env: {"jsons": windows(options, env), "reload": {}} for env in ("a_1", "a_2")}
    page = Page()
    compare_envs(state, ["a_1", "a_2"], page)
    assert set(page.windows) == {"loss", "action_mean", "compare_legend"}
    curves = page.windows["loss"]["content"]["data"]
    assert [(c["name"], c["y"]) for c in curves] == [("0_loss", [3.0]), ("1_loss", [4.0])]
    assert len(page.windows["action_mean"]["content"]["data"]) == 4


def test_a_second_run_uses_the_server_of_the_first(served, tmp_path):
    options, _ = served
    again = VisdomOptions(start=True, port=options.port, download=False)
    assert VisdomProcess.started(again, tmp_path) is None


def test_what_is_no_visdom_server_is_one_warning(tmp_path):
    failures, port = [], free_port()
    web = subprocess.Popen(
        [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        eventually(lambda: answers(port))
        options = VisdomOptions(enabled=True, port=port)
        sink = Visdom(options, "e", warn=failures.append, say=failures.append, store=tmp_path)
        sink.write({"update": 1, "loss": 1.0})
        sink.close()
    finally:
        web.kill()
        web.wait()
    (warning,) = failures
    assert warning.startswith(f"this run is not shown at http://127.0.0.1:{port}: ")
    assert "\n" not in warning


OWNER = """
import sys, time
from pathlib import Path
from mbrl.monitoring import VisdomOptions
from mbrl.monitoring.visdom_process import VisdomProcess
options = VisdomOptions(start=True, port=int(sys.argv[1]), download=False)
process = VisdomProcess.started(options, Path(sys.argv[2]))
print(process.pid, flush=True)
time.sleep(600)
"""


def test_a_server_ends_with_its_run_even_if_that_is_killed(tmp_path):
    port = free_port()
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(port), str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE
    )
    try:
        eventually(lambda: answers(port))
    finally:
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        owner.stdout.close()
    eventually(lambda: not answers(port))


def test_whether_the_page_has_scripts(served):
    import visdom

    from mbrl.monitoring.visdom_client import VisdomClient

    options, _ = served
    client = VisdomClient(options, "page")
    static = Path(visdom.__file__).parent / "static"
    for name, there in (("index.html", True), ("nothing.js", False)):
        assert client._visdom.has_file(name) == (static / name).exists() == there
    assert client.has_page() == (static / "version.built").exists()
