"""When two models are the same one."""

import mujoco
import numpy as np
import pytest

from mbrl.physics.digest import model_digest

XML = """<mujoco>
  <asset><hfield name="ground" file="ground.bin" size="1 1 1 .1"/></asset>
  <worldbody>
    <geom type="hfield" hfield="ground" rgba="1 0 0 1"/>
    <body pos="0 0 1"><freejoint/><geom name="ball" size=".1" mass="1"/></body>
  </worldbody>
</mujoco>"""


def digest(folder, text=XML, top=0.5):
    folder.mkdir(exist_ok=True, parents=True)
    heights = np.array([[0, 0.5], [top, 1]], np.float32)
    (folder / "ground.bin").write_bytes(np.array([2, 2], np.int32).tobytes() + heights.tobytes())
    (folder / "model.xml").write_text(text)
    return model_digest(mujoco.MjModel.from_xml_path(str(folder / "model.xml")))


def test_where_it_lies_and_how_it_looks_is_all_one(tmp_path):
    first = digest(tmp_path / "a")
    assert digest(tmp_path / "b" / "deeper") == first
    assert digest(tmp_path / "a", XML.replace("1 0 0 1", "0 1 0 1").replace("ball", "b")) == first


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('mass="1"', 'mass="2"'),
        ('pos="0 0 1"', 'pos="0 0 2"'),
        ("<mujoco>", '<mujoco><option gravity="0 0 -9"/>'),
        ("<mujoco>", '<mujoco><option timestep=".003"/>'),
        ("<mujoco>", '<mujoco><option cone="elliptic"/>'),
    ],
)
def test_what_steps_depend_on_counts(tmp_path, old, new):
    assert digest(tmp_path, XML.replace(old, new)) != digest(tmp_path)


def test_the_content_of_its_files_counts(tmp_path):
    # In another folder: of a file that is there MuJoCo may remember what was in it.
    assert digest(tmp_path / "a", top=0.25) != digest(tmp_path / "b")
