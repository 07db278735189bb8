"""Parameters of a model: what their names mean, bounds, ties, and what is refused."""

import mujoco
import numpy as np
import pytest

from mbrl.errors import ArgumentError, ModelError
from mbrl.physics import ModelParameters, Simulator, parameter_names
from tests import models
from tests.physics.parametric import CASES, edited, model_of, read

MIXED = models.own("mixed")
CHEETAH = models.stock("HalfCheetah")


@pytest.mark.parametrize("name", CASES)
def test_names_mean_the_numbers(name):
    model = model_of(name)
    parameters = ModelParameters(model, list(CASES[name]))
    assert parameters.size == len(CASES[name])
    assert parameters.values.tolist() == [read(model, *at) for at in CASES[name].values()]
    values = parameters.values * 1.1 + 0.01
    found = parameters.model_with(values)
    expected = edited(model, dict(zip(CASES[name].values(), values, strict=True)))
    assert models.model_bytes(found) == models.model_bytes(expected)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("dof_damping[ball]", ["dof_damping[1]", "dof_damping[2]", "dof_damping[3]"]),
        ("jnt_stiffness[ball]", ["jnt_stiffness[ball]"]),
        ("jnt_stiffness[1]", ["jnt_stiffness[ball]"]),
        (" jnt_range[ hinge , 1 ] ", ["jnt_range[hinge,1]"]),
        (
            "jnt_range[*,0]",
            [f"jnt_range[{j},0]" for j in ("hinge", "ball", "slide", "free", "wrist")],
        ),
        ("opt.density", ["opt.density"]),
        ("opt.wind", ["opt.wind[0]", "opt.wind[1]", "opt.wind[2]"]),
        ("actuator_gear[0,2]", ["actuator_gear[0,2]"]),
    ],
)
def test_patterns(written, expected):
    parameters = ModelParameters(MIXED, [written])
    assert list(parameters.names) == expected
    assert ModelParameters(MIXED, expected).values.tolist() == parameters.values.tolist()


def test_a_whole_field():
    parameters = ModelParameters(CHEETAH, ["geom_friction"])
    assert parameters.size == 3 * CHEETAH.ngeom
    np.testing.assert_array_equal(parameters.values, CHEETAH.geom_friction.ravel())
    assert parameters.names[0] == "geom_friction[floor,0]"


def test_names_of_objects_may_hold_commas_and_digits():
    xml = models.LINEAR.replace('name="a"', 'name="left,0"').replace('joint="a"', 'joint="left,0"')
    xml = xml.replace('name="b"', 'name="0"').replace('joint="b"', 'joint="0"')
    model = mujoco.MjModel.from_xml_string(xml)
    assert ModelParameters(model, ["jnt_stiffness[left,0]"]).values.tolist() == [30.0]
    assert ModelParameters(model, ["jnt_stiffness[0]"]).values.tolist() == [20.0]  # the name
    assert ModelParameters(model, ["jnt_range[left,0,1]"]).names == ("jnt_range[left,0,1]",)


def test_tied_numbers_keep_their_ratio():
    names = [("body_mass[torso]", "body_inertia[torso]"), "dof_damping[bthigh]"]
    parameters = ModelParameters(CHEETAH, names)
    assert parameters.names == ("body_mass[torso] & body_inertia[torso]", "dof_damping[bthigh]")
    own = CHEETAH.body_mass[1]
    assert parameters.values.tolist() == [own, 6.0]
    model = parameters.model_with([3.0 * own, 1.0])
    assert model.body_mass[1] == pytest.approx(3.0 * own)
    np.testing.assert_allclose(model.body_inertia[1], 3.0 * CHEETAH.body_inertia[1])
    np.testing.assert_array_equal(model.body_inertia[2:], CHEETAH.body_inertia[2:])
    assert model.dof_damping[3] == 1.0


def test_zeros_are_tied_as_equals():
    names = [("dof_frictionloss[bthigh]", "dof_frictionloss[bshin]")]
    model = ModelParameters(CHEETAH, names).model_with([0.5])
    assert model.dof_frictionloss[3:6].tolist() == [0.5, 0.5, 0.0]


def test_a_position_servo():
    names = [("actuator_gainprm[0,0]", "actuator_biasprm[0,1]")]
    model = ModelParameters(models.own("servo"), names).model_with([25.0])
    assert (model.actuator_gainprm[0, 0], model.actuator_biasprm[0, 1]) == (25.0, -25.0)


def test_bounds():
    names = ["body_mass[torso]", "opt.gravity[2]"]
    parameters = ModelParameters(CHEETAH, names)
    assert parameters.lower.tolist() == [0.0, -np.inf]
    assert parameters.upper.tolist() == [np.inf, np.inf]
    parameters = ModelParameters(CHEETAH, names, lower=[1.0, -20.0], upper=50.0)
    assert parameters.lower.tolist() == [1.0, -20.0]
    assert parameters.upper.tolist() == [50.0, 50.0]


def test_scale_is_the_magnitude():
    names = ["body_mass[torso]", "opt.gravity[2]", "opt.wind[0]"]
    parameters = ModelParameters(CHEETAH, names)
    values = np.array([[6.0, -9.81, 0.0], [0.3, 0.0, -5.0]])
    assert parameters.scale(values).tolist() == [[8.0, 16.0, 2.0], [0.5, 16.0, 8.0]]


def test_a_simulator_will_do_and_nothing_is_shared():
    simulator = Simulator(CHEETAH, threads=1)
    parameters = ModelParameters(simulator, ["body_mass[torso]"])
    before = models.model_bytes(simulator.model)
    parameters.model_with([1.0]).body_mass[:] = 7.0
    parameters.model.body_mass[:] = 9.0
    assert models.model_bytes(simulator.model) == before


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["body_mas"], "unknown model field 'body_mas'; .* did you mean 'body_mass'"),
        (["dof_damping[hing]"], "has no object 'hing'; .* did you mean 'hinge'"),
        (["dof_damping[12]"], r"dof_damping has no index '12': its shape is \[12\]"),
        (["dof_damping[-1]"], "dof_damping has no object '-1'"),
        (["jnt_range[hinge,2]"], "jnt_range has no index '2'"),
        (["jnt_range[hinge,low]"], "jnt_range has no index 'low'"),
        (["opt.gravity[z]"], "opt.gravity has no index 'z'"),
        (["opt.density[0]"], "has 1 indices, but its shape is"),
        (["tendon_stiffness"], "'tendon_stiffness': the model has none"),
        (["geom_type"], "'geom_type' cannot be a parameter: it holds no real numbers"),
        (["nbody"], "'nbody' cannot be a parameter: it holds no real numbers"),
        (["geom_rgba"], "'geom_rgba' cannot be a parameter"),
        (["body_subtreemass"], "'body_subtreemass' cannot be a parameter: MuJoCo derives it"),
        (["body_quat"], "'body_quat' cannot be a parameter: the numbers of a rotation"),
        (["jnt_axis"], "'jnt_axis' cannot be a parameter: the numbers of a rotation"),
        (["opt.tolerance"], "'opt.tolerance' cannot be a parameter"),
        (["mesh_vert"], "'mesh_vert' cannot be a parameter: all simulations .* share it"),
        (["body_mass["], r"expected 'field', .* got 'body_mass\['"),
        ([3], "expected 'field', .* got 3"),
        (["body_mass[1]", "body_mass"], r"body_mass\[1\] is named more than once"),
        ([("body_mass[1]", "body_mass[1]")], r"body_mass\[1\] is named more than once"),
        ([("dof_armature[0]", "dof_damping[0]")], "has no ratio to .*, which is 0"),
        ([()], "a tuple of names is empty"),
        ([], "names must be a list"),
        ("body_mass", "names must be a list of names and tuples of names, got 'body_mass'"),
        (None, "names must be a list"),
    ],
)
def test_bad_names(names, message):
    with pytest.raises(ArgumentError, match=message) as caught:
        ModelParameters(MIXED, names)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({"lower": 7.0}, r"include the model's own value: dof_damping\[hinge\] is 0.3"),
        ({"upper": 0.1}, r"include the model's own value: dof_damping\[hinge\] is 0.3"),
        ({"lower": 0.3, "upper": 0.3}, "lower and upper must differ"),
        ({"lower": [0.0, 0.0]}, r"lower must be a number or 1 numbers, got shape \[2\]"),
        ({"upper": np.nan}, "upper must be a number .* with NaN"),
        ({"upper": "much"}, "upper must be an array of real numbers"),
    ],
)
def test_bad_bounds(bounds, message):
    with pytest.raises(ArgumentError, match=message):
        ModelParameters(MIXED, ["dof_damping[hinge]"], **bounds)


def test_bad_models():
    with pytest.raises(ArgumentError, match=r"model must be a mujoco\.MjModel or a Simulator"):
        ModelParameters("model.xml", ["body_mass"])


def test_what_mujoco_compiled_away_is_refused():
    # A free body whose frame is that of its inertia is compiled without the offset between them.
    xml = '<body name="ball"><freejoint/><geom size="0.1"/></body>'
    model = mujoco.MjModel.from_xml_string(f"<mujoco><worldbody>{xml}</worldbody></mujoco>")
    with pytest.raises(ModelError, match=r"body_ipos\[ball,0\] cannot be a parameter: .*simple"):
        ModelParameters(model, ["body_ipos[ball,0]"])


def test_values_of_a_model_are_checked():
    parameters = ModelParameters(CHEETAH, ["body_mass[torso]"])
    with pytest.raises(ArgumentError, match="must lie between 0 and inf, got -1 in row 0"):
        parameters.model_with([-1.0])
    with pytest.raises(ArgumentError, match="parameters must have shape"):
        parameters.model_with([1.0, 2.0])


def test_every_field_exists_and_can_differ_between_simulations():
    assert parameter_names.FIELDS <= mujoco.batch.MODEL_FIELDS
