"""Event files, read by TensorBoard's own reader."""

import io

import imageio.v2
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mbrl.monitoring import Picture
from mbrl.monitoring.tensorboard import TensorBoard


def read(folder):
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    accumulator.Reload()
    return accumulator


def scalars(folder, name):
    return [(event.step, event.value) for event in read(folder).Scalars(name)]


def rows(first, last):
    for update in range(first, last + 1):
        yield {"update": update, "env_steps": 10 * update, "return_mean": 0.5 * update}


def test_a_scalar_a_column(tmp_path):
    sink = TensorBoard(tmp_path)
    for row in rows(1, 3):
        sink.write(row)
    sink.close()
    assert scalars(tmp_path, "return_mean") == [(1, 0.5), (2, 1.0), (3, 1.5)]
    assert scalars(tmp_path, "env_steps") == [(1, 10.0), (2, 20.0), (3, 30.0)]
    assert set(read(tmp_path).Tags()["scalars"]) == {"return_mean", "env_steps"}


def test_numbers_among_diagnostics(tmp_path):
    sink = TensorBoard(tmp_path)
    sink.diagnose(4, {"engine_share": np.array(0.25), "action_mean": np.zeros((5, 2))})
    sink.diagnose(5, {"action_mean": np.zeros((5, 2))})
    sink.close()
    assert scalars(tmp_path, "engine_share") == [(4, 0.25)]
    assert read(tmp_path).Tags()["scalars"] == ["engine_share"]


def test_pictures_are_those_of_the_files(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 4), dtype=np.uint8)
    imageio.v2.imwrite(tmp_path / "a.png", pixels)
    (tmp_path / "a.mp4").write_bytes(b"")
    sink = TensorBoard(tmp_path / "events")
    sink.show(Picture("graph", tmp_path / "a.png", 7))
    sink.show(Picture("video", tmp_path / "a.mp4", 7))
    sink.close()
    found = read(tmp_path / "events")
    assert found.Tags()["images"] == ["graph"]
    (event,) = found.Images("graph")
    assert event.step == 7
    shown = imageio.v2.imread(io.BytesIO(event.encoded_image_string))
    np.testing.assert_array_equal(shown, pixels[..., :3])


def test_texts_are_literal(tmp_path):
    sink = TensorBoard(tmp_path)
    sink.tell("configuration", "task: x\nseed: 0\n")
    sink.close()
    (event,) = read(tmp_path).Tensors("configuration/text_summary")
    assert event.tensor_proto.string_val[0].decode() == "    task: x\n    seed: 0\n"


@pytest.mark.parametrize("done", [0, 2])  # 0: it was killed before its first checkpoint
def test_a_resumed_run_replaces_what_it_repeats(tmp_path, done):
    first = TensorBoard(tmp_path)
    for row in rows(1, 4):
        first.write(row)
    first.close()
    second = TensorBoard(tmp_path, done=done)
    for row in rows(done + 1, 5):
        second.write({**row, "return_mean": -1.0})
    second.close()
    kept = [(1, 0.5), (2, 1.0)][:done]
    again = [(update, -1.0) for update in range(done + 1, 6)]
    assert scalars(tmp_path, "return_mean") == kept + again
