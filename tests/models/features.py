"""Small scenes, one feature of MuJoCo each: geoms in contact, forces, constraints, actuators."""

import mujoco
import numpy as np

from tests.models import INTEGRATORS

ASSETS = """
<asset>
  <mesh name="m" vertex="0 0 0 .2 0 0 0 .2 0 0 0 .2 .2 .2 .1"/>
  <hfield name="h" nrow="10" ncol="10" size="2 2 .3 .1"/>
</asset>
"""
ARM = """
<body name="b1" pos="0 0 1">
  <joint name="j1" axis="0 1 0" {j1}/>
  <geom type="capsule" size=".03" fromto="0 0 0 .3 0 0" contype="0" conaffinity="0"/>
  <site name="s1" pos=".15 0 .05"/>
  <body name="b2" pos=".3 0 0" {b2}>
    <joint name="j2" axis="1 1 0" {j2}/>
    <geom type="capsule" size=".03" fromto="0 0 0 .3 0 0" contype="0" conaffinity="0"/>
    <site name="s2" pos=".1 0 .05"/>
  </body>
</body>
"""
BOX = '<geom type="box" size=".1 .12 .08" {}/>'
LINK = '<geom type="capsule" size=".03" fromto="0 0 0 .3 0 0"/>'


def scene(world, rest="", option="", plane=""):
    return f"""
    <mujoco>
      <option timestep="0.004" {option}/>{ASSETS if "mesh=" in world or "hfield=" in world else ""}
      <worldbody><geom name="floor" type="plane" size="5 5 1" {plane}/>{world}</worldbody>{rest}
    </mujoco>
    """


def free(geom, z, name="x", x=0):
    return f'<body name="{name}" pos="{x} 0 {z}"><freejoint/>{geom}</body>'


def arm(j1="", j2="", b2=""):
    return ARM.format(j1=j1, j2=j2, b2=b2)


def hung(joint, geom=LINK):
    return f'<body pos="0 0 1">{joint}{geom}</body>'


def attributes(values):
    return " ".join(f'{key}="{value}"' for key, value in values.items())


def box(**values):
    return free(BOX.format(attributes(values)), 0.079)


def flag(**flags):
    return f"<option><flag {attributes(flags)}/></option>"


LOW = '<geom type="box" size=".2 .2 .1"/>'
MESH = '<geom type="mesh" mesh="m"/>'

LEG = '<geom type="capsule" size=".05" fromto="0 0 0 {} 0 -.4"/>'
HIP = '<joint axis="0 1 0"/><joint axis="1 0 0"/>'
# Two legs of one trunk that touch: dofs that move both twist the frame of the contact.
LEGS = (
    '<body pos="0 0 2"><freejoint/><geom type="box" size=".05 .05 .05" mass="3" pos="0 0 .3"/>'
    f"<body>{HIP}{LEG.format('.3')}</body>"
    f'<body pos=".3 .0985 0">{HIP}{LEG.format("-.3")}</body></body>'
)

CONTACTS = {
    "crossed legs": scene(LEGS),
    "crossed legs, elliptic": scene(LEGS, option='cone="elliptic"'),
    "box": scene(box()),
    "box, elliptic": scene(box(), option='cone="elliptic" impratio="5"'),
    "box, sparse": scene(box(), option='jacobian="sparse"'),
    "ellipsoid": scene(free('<geom type="ellipsoid" size=".1 .12 .08"/>', 0.079)),
    "capsule, condim 4": scene(
        free('<geom type="capsule" size=".05 .1" condim="4" euler="0 90 0"/>', 0.049)
    ),
    "sphere, condim 1": scene(free('<geom size=".1" condim="1"/>', 0.099)),
    "sphere, condim 6": scene(free('<geom size=".1" condim="6"/>', 0.099)),
    "mesh": scene(free(MESH, 0.05)),
    "height field": scene(
        '<geom type="hfield" hfield="h" pos="0 0 .2"/>' + free("<geom size='.1'/>", 0.35)
    ),
    "box on box": scene(free(LOW, 0.099) + free('<geom type="box" size=".1 .1 .1"/>', 0.298, "y")),
    "sphere on box": scene(free(LOW, 0.099) + free('<geom size=".1"/>', 0.298, "y")),
    "capsule on box": scene(
        free(LOW, 0.099) + free('<geom type="capsule" size=".05 .1" euler="90 0 20"/>', 0.248, "y")
    ),
    "cylinder on box": scene(
        free(LOW, 0.099) + free('<geom type="cylinder" size=".08 .05"/>', 0.248, "y")
    ),
    "capsules": scene(
        free('<geom type="capsule" size=".1 .3" euler="0 90 0"/>', 0.099)
        + free('<geom type="capsule" size=".1 .3" euler="90 0 20"/>', 0.298, "y")
    ),
    "meshes": scene(free(MESH, 0.05) + free(MESH, 0.25, "y")),
    "margin": scene(box(margin=0.02)),
    "margins and gaps": scene(
        free('<geom size=".1" margin=".02" gap=".01"/>', 0.105), plane='margin=".01" gap=".005"'
    ),
    "pair": scene(
        free('<geom name="a" size=".1"/>', 0.099),
        '<contact><pair geom1="a" geom2="floor" margin=".01" friction="1 .8 .01 .001 .001" '
        'condim="6" solreffriction=".01 1"/></contact>',
        option='cone="elliptic"',
    ),
    "direct solref": scene(box(solref="-2000 -30")),
    "wide impedance": scene(box(solimp=".1 .95 .01 .5 2")),
    "override": scene(box(), flag(override="enable"), option='o_margin="0.005"'),
    "refsafe": scene(box(solref=".001 1"), flag(refsafe="disable")),
    "far away": scene(free(BOX.format(""), 0.079, x=100)),
}

FORCES = {
    "no contact": scene(box(), flag(contact="disable")),
    "joints of one body": scene(
        hung(
            '<joint type="slide" axis="1 0 0"/><joint axis="0 1 0" pos=".1 0 0"/>'
            '<joint type="slide" axis="0 0 1"/><joint axis="1 0 1" pos="0 .1 0"/>'
        )
    ),
    "slide and ball": scene(
        hung(
            '<joint type="slide" axis="1 0 0"/><joint type="ball" pos=".1 0 0"/>',
            LINK + "<body><joint/><geom size='.1'/></body>",
        )
    ),
    "gravity compensation": scene(arm(b2='gravcomp=".7"')),
    "springs": scene(arm('stiffness="3 1 2" damping=".1"', 'stiffness="2"')),
    "ball spring": scene(hung('<joint type="ball" stiffness="2" damping=".1"/>')),
    "free spring": scene(hung('<joint type="free" stiffness="20" damping=".1"/>')),
    "polynomial damping": scene(arm('damping=".1 .05 .02"', 'damping="0 .1"')),
    "no damping in Euler": scene(arm('damping="1"', 'damping=".4"'), flag(eulerdamp="disable")),
    "no springs, no dampers": scene(
        arm('damping="1" stiffness="3"'), flag(spring="disable", damper="disable")
    ),
    "wind": scene(arm(), option='density="1.2" viscosity=".1" wind="3 1 0"'),
    "fluid": scene(arm(), option='density="1000" viscosity=".1"'),
    "tendon spring": scene(
        arm(),
        '<tendon><spatial stiffness="40" damping="2" springlength=".1 .12"><site site="s1"/>'
        '<site site="s2"/></spatial></tendon>',
    ),
    "fixed tendon armature": scene(
        arm(),
        '<tendon><fixed armature=".1"><joint joint="j1" coef="2"/>'
        '<joint joint="j2" coef="-1"/></fixed></tendon>',
    ),
}

CONSTRAINTS = {
    "friction loss": scene(arm('frictionloss=".5"', 'frictionloss=".1"')),
    "ball limit": scene(hung('<joint type="ball" range="0 .1" limited="true"/>')),
    "tendon limit": scene(
        arm(),
        '<tendon><spatial limited="true" range=".1 .2" frictionloss=".1"><site site="s1"/>'
        '<site site="s2"/></spatial></tendon>',
    ),
    "weld": scene(arm(), '<equality><weld body1="b2" relpose="0 0 0 1 0 0 0"/></equality>'),
    "connect, sparse": scene(
        arm(),
        '<equality><connect body1="b2" anchor="0 0 0"/></equality>',
        option='jacobian="sparse"',
    ),
    "connect bodies": scene(
        arm() + free(BOX.format(""), 1.2),
        '<equality><connect body1="b2" body2="x" anchor=".3 0 0"/></equality>',
    ),
    "weld bodies": scene(
        arm() + free(BOX.format(""), 1.2), '<equality><weld body1="b2" body2="x"/></equality>'
    ),
    "weld to mocap": scene(
        '<body name="m" mocap="true" pos="0 0 1.1"/>' + free(BOX.format(""), 1.0),
        '<equality><weld body1="m" body2="x"/></equality>',
    ),
    "tendon equality": scene(
        arm(),
        '<tendon><fixed name="t1"><joint joint="j1" coef="1"/></fixed><spatial name="t2">'
        '<site site="s1"/><site site="s2"/></spatial></tendon>'
        '<equality><tendon tendon1="t1" tendon2="t2" polycoef="0 2 1 0 0"/></equality>',
    ),
}


def actuated(actuators, world=None):
    return scene(world or arm(), f"<actuator>{actuators}</actuator>")


ACTUATORS = {
    "site": actuated(
        '<general site="s" gear="1 2 3 .1 .2 .3" gainprm="5"/>',
        free(BOX.format("") + '<site name="s"/>', 0.079),
    ),
    "site and reference": actuated(
        '<position site="s2" refsite="s1" gear="1 0 1 0 0 0" kp="10" kv="1"/>'
    ),
    "slider-crank": actuated(
        '<motor cranksite="s1" slidersite="sl" cranklength=".6" gear="3"/>',
        arm() + '<site name="sl" pos="0 0 .6" zaxis="0 0 1"/>',
    ),
    "joint in parent": actuated(
        '<motor jointinparent="b" gear="1 .5 .2"/>', hung('<joint name="b" type="ball"/>')
    ),
    "ball servo": actuated(
        '<position joint="b" gear="1 .5 .2" kp="3" kv=".2"/>', hung('<joint name="b" type="ball"/>')
    ),
    "force limits": actuated(
        '<position joint="j1" kp="30" forcerange="-.5 .5"/><motor joint="j2" gear="2"/>'
    ),
    "joint force limits": actuated(
        '<motor joint="j1" gear="2"/><motor joint="j1"/>',
        arm('actuatorfrcrange="-1 1" actuatorfrclimited="true"'),
    ),
    "gravity compensation by actuators": actuated(
        '<motor joint="j1"/>', arm('actuatorgravcomp="true"', b2='gravcomp="1"')
    ),
    "damper": actuated('<damper joint="j1" kv=".5" ctrlrange="0 1"/>'),
    "armature": actuated('<motor joint="j1" armature=".02"/>'),
    "disabled group": scene(
        arm(),
        '<actuator><motor joint="j1" group="1"/><motor joint="j2"/>'
        '<general joint="j1" group="1" dyntype="filter" dynprm=".1"/></actuator>',
        option='actuatorgroupdisable="1"',
    ),
}

FEATURES = {**CONTACTS, **FORCES, **CONSTRAINTS, **ACTUATORS}


def feature(name, integrator="Euler"):
    """Return the compiled scene; a height field gets heights."""
    model = mujoco.MjModel.from_xml_string(FEATURES[name])
    model.opt.integrator = INTEGRATORS[integrator]
    if model.nhfield:
        model.hfield_data[:] = 0.3 * np.random.default_rng(0).random(len(model.hfield_data))
    return model
