"""Private copies, threads, silence and pools."""

import os

import mujoco
import numpy as np
import pytest

from mbrl.errors import ArgumentError, ModelError
from mbrl.physics import Simulator, StateSpec, engine
from tests import models
from tests.models import reference

BODY = """
<mujoco>
  <compiler angle="radian"/>
  {option}
  {extension}
  <worldbody>
    <body>
      <joint name="a" axis="0 1 0" stiffness="1" {joint}/>
      <geom size="0.1"/>
    </body>
  </worldbody>
  {rest}
</mujoco>
"""


def compiled(*, option="", extension="", joint="", rest=""):
    return mujoco.MjModel.from_xml_string(
        BODY.format(option=option, extension=extension, joint=joint, rest=rest)
    )


@pytest.mark.parametrize(
    ("parts", "named"),
    [
        (
            {"rest": '<actuator><motor joint="a" delay="0.01" nsample="4"/></actuator>'},
            r"actuator or sensor delays \(history\)",
        ),
        (
            {"rest": '<sensor><jointpos joint="a" delay="0.01" nsample="4"/></sensor>'},
            r"actuator or sensor delays \(history\)",
        ),
        ({"joint": 'springyield="0.1"'}, "plasticity"),
        ({"option": '<option><flag sleep="enable"/></option>'}, "sleep"),
        ({"option": '<option integrator="discrete"><flag ipc="enable"/></option>'}, "IPC contact"),
    ],
    ids=["actuator delay", "sensor delay", "plasticity", "sleep", "ipc"],
)
def test_hidden_state_is_refused_by_name(parts, named):
    with pytest.raises(ModelError, match=f"^the model uses {named}.*: its next step is not"):
        Simulator(compiled(**parts))


def test_models_that_hide_nothing_are_accepted():
    assert Simulator(compiled()).spec.nx == 2


def test_private_copy_differs_in_one_bit():
    model = models.stock("Humanoid")
    before = models.model_bytes(model)
    own = engine.private_copy(model)
    assert own is not model
    assert models.model_bytes(model) == before
    assert own.opt.disableflags & mujoco.mjtDisableBit.mjDSBL_AUTORESET
    own.opt.disableflags = model.opt.disableflags
    assert models.model_bytes(own) == before


def test_thread_count():
    assert engine.thread_count(3) == 3
    assert engine.thread_count(None) == len(os.sched_getaffinity(0))


@pytest.mark.parametrize("threads", [0, -1, 1.0, "2", True])
def test_thread_count_refuses(threads):
    with pytest.raises(ArgumentError, match=r"^threads must be an integer from 1 to 1024 or None"):
        Simulator(models.own("ball"), threads=threads)


def test_quiet_silences_and_restores(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)

    def provoke():
        model = models.own("ball")
        data = mujoco.MjData(model)
        data.qvel[0] = np.nan
        mujoco.mj_step(model, data)

    before = mujoco.MjLogConfig.get()
    with engine.quiet():
        provoke()
    after = mujoco.MjLogConfig.get()
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")
    assert (after.logto_console, after.logto_file) == (before.logto_console, before.logto_file)
    provoke()
    assert capfd.readouterr() != ("", "")  # so it would have been seen above


def test_quiet_restores_after_an_error():
    before = mujoco.MjLogConfig.get()
    with pytest.raises(RuntimeError), engine.quiet():
        raise RuntimeError
    after = mujoco.MjLogConfig.get()
    assert (after.logto_console, after.logto_file) == (before.logto_console, before.logto_file)


def test_a_pool_serves_batches_of_any_size():
    model = models.own("contact_elliptic")
    pool = engine.SimulationPool(engine.private_copy(model), StateSpec(model), 1)
    states, ctrls = reference.samples(model, 9)
    expected = reference.steps(model, states, ctrls, 2)
    for n in (1, 9, 3, 8, 2):
        np.testing.assert_array_equal(pool.advance(states[:n], ctrls[:n], 2), expected[:n])


def test_what_a_pool_returns_is_not_overwritten_by_its_next_call():
    model = models.own("ball")
    pool = engine.SimulationPool(engine.private_copy(model), StateSpec(model), 1, ("xpos",))
    states, ctrls = reference.samples(model, 2)
    first, xpos = pool.advance(states, ctrls, 1), pool.field("xpos", 2)
    copies = first.copy(), xpos.copy()
    pool.advance(states[::-1], ctrls[::-1], 3)
    np.testing.assert_array_equal(first, copies[0])
    np.testing.assert_array_equal(xpos, copies[1])
