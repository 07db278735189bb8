"""Models for tests: small ones of our own, each with a name, and the stock ones of Gymnasium."""

import gymnasium
import mujoco
import numpy as np

STOCK = (
    "InvertedPendulum",
    "InvertedDoublePendulum",
    "HalfCheetah",
    "Hopper",
    "Swimmer",
    "Walker2d",
    "Ant",
    "Humanoid",
    "Reacher",
    "Pusher",
)

INTEGRATORS = {
    "Euler": mujoco.mjtIntegrator.mjINT_EULER,
    "RK4": mujoco.mjtIntegrator.mjINT_RK4,
    "implicit": mujoco.mjtIntegrator.mjINT_IMPLICIT,
    "implicitfast": mujoco.mjtIntegrator.mjINT_IMPLICITFAST,
    "discrete": mujoco.mjtIntegrator.mjINT_DISCRETE,
}

# Every kind of joint, the quaternions neither first nor last, and two kinds of activation.
MIXED = """
<mujoco>
  <option timestep="0.004"/>
  <worldbody>
    <body pos="0 0 2">
      <joint name="hinge" axis="0 1 0" damping="0.3"/>
      <geom type="capsule" size="0.04" fromto="0 0 0 0.3 0 0"/>
      <body pos="0.3 0 0">
        <joint name="ball" type="ball" damping="0.05" stiffness="0.4"/>
        <geom type="capsule" size="0.03" fromto="0 0 0 0.2 0.1 -0.2"/>
        <body pos="0.2 0.1 -0.2">
          <joint name="slide" type="slide" axis="1 0 1" stiffness="20" damping="1"/>
          <geom type="box" size="0.05 0.04 0.03"/>
        </body>
      </body>
    </body>
    <body pos="0 2 2">
      <freejoint name="free"/>
      <geom type="box" size="0.1 0.2 0.05"/>
      <body pos="0.1 0.2 0">
        <joint name="wrist" axis="1 1 0" damping="0.1"/>
        <geom type="capsule" size="0.03" fromto="0 0 0 0 0.3 0.1"/>
      </body>
    </body>
  </worldbody>
  <actuator>
    <motor joint="hinge" gear="2" ctrlrange="-1 1" ctrllimited="true"/>
    <general joint="slide" dyntype="filter" dynprm="0.05" gainprm="8" ctrlrange="-1 1"/>
    <motor joint="ball" gear="0.3 0.2 -0.1" ctrlrange="-1 1"/>
    <general joint="wrist" dyntype="integrator" gainprm="1.5" biastype="affine" biasprm="0 0 -0.2"
      ctrlrange="-1 1"/>
  </actuator>
</mujoco>
"""

BALL = """
<mujoco>
  <option timestep="0.005"/>
  <worldbody>
    <body pos="0 0 1">
      <joint name="shoulder" type="ball" damping="0.02" range="0 2"/>
      <geom type="capsule" size="0.03" fromto="0 0 0 0.3 0 -0.1"/>
      <body pos="0.3 0 -0.1">
        <joint name="elbow" axis="0 1 0.3" damping="0.05" armature="0.01"/>
        <geom type="capsule" size="0.025" fromto="0 0 0 0.25 0.05 0"/>
      </body>
    </body>
  </worldbody>
  <actuator>
    <motor joint="shoulder" gear="0.5 0 0.2" ctrlrange="-1 1"/>
    <motor joint="shoulder" gear="0 0.5 0" ctrlrange="-1 1"/>
    <motor joint="elbow" gear="0.3" ctrlrange="-1 1"/>
  </actuator>
</mujoco>
"""

FREE = """
<mujoco>
  <option timestep="0.005"/>
  <worldbody>
    <body pos="0 0 1">
      <freejoint/>
      <geom type="box" size="0.1 0.2 0.05"/>
      <geom type="sphere" pos="0.1 0.1 0.1" size="0.05"/>
      <site name="left" pos="0.1 0.2 0"/>
      <site name="right" pos="-0.1 -0.2 0.05"/>
    </body>
  </worldbody>
  <actuator>
    <general site="left" gear="0 0 20 0 0 1" ctrlrange="0 2"/>
    <general site="right" gear="5 0 20 0.5 0 0" ctrlrange="-1 2"/>
  </actuator>
</mujoco>
"""

MUSCLE = """
<mujoco>
  <option timestep="0.005"/>
  <worldbody>
    <site name="anchor" pos="0.1 0 1.2"/>
    <body pos="0 0 1">
      <joint name="hinge" axis="0 1 0" damping="0.05" armature="0.005"/>
      <geom type="capsule" size="0.03" fromto="0 0 0 0.4 0 0"/>
      <site name="insertion" pos="0.2 0 0.03"/>
      <body pos="0.4 0 0">
        <joint name="tip" axis="0 1 0" damping="0.02" stiffness="0.5"/>
        <geom type="capsule" size="0.02" fromto="0 0 0 0.2 0 0"/>
      </body>
    </body>
  </worldbody>
  <tendon>
    <spatial name="cord"><site site="anchor"/><site site="insertion"/></spatial>
  </tendon>
  <actuator>
    <muscle tendon="cord" ctrlrange="0 1" force="60" lengthrange="0.1 0.5"
      tausmooth="0.2"/>
    <muscle joint="hinge" ctrlrange="0 1" force="5" lengthrange="-2 2" timeconst="0.02 0.06"
      tausmooth="0.3"/>
    <general joint="tip" dyntype="filterexact" dynprm="0.03" gainprm="0.4" ctrlrange="-1 1"/>
  </actuator>
</mujoco>
"""

# Activations that are clamped, and one actuator whose force looks ahead (actearly).
CLAMPED = """
<mujoco>
  <option timestep="0.01"/>
  <worldbody>
    <body pos="0 0 1">
      <joint name="a" axis="0 1 0" damping="0.2"/>
      <geom type="capsule" size="0.03" fromto="0 0 0 0.3 0 0"/>
      <body pos="0.3 0 0">
        <joint name="b" axis="0 1 0" damping="0.1"/>
        <geom type="capsule" size="0.03" fromto="0 0 0 0.3 0 0"/>
      </body>
    </body>
  </worldbody>
  <actuator>
    <general joint="a" dyntype="filter" dynprm="0.04" gainprm="3" ctrlrange="-1 1"
      actlimited="true" actrange="-0.5 0.5"/>
    <intvelocity joint="b" kp="6" actrange="-0.8 0.8" ctrlrange="-4 4"/>
    <general joint="b" dyntype="filter" dynprm="0.1" gainprm="1" actearly="true"/>
  </actuator>
</mujoco>
"""

TENDON = """
<mujoco>
  <option timestep="0.005"/>
  <worldbody>
    <site name="top" pos="0 0 1.3"/>
    <geom name="pulley" type="cylinder" size="0.05 0.1" pos="0.1 0 1.1" zaxis="0 1 0"/>
    <body pos="0 0 1">
      <joint name="a" axis="0 1 0" damping="0.1" frictionloss="0.05"/>
      <geom type="capsule" size="0.03" fromto="0 0 0 0.3 0 0" contype="0" conaffinity="0"/>
      <site name="mid" pos="0.25 0 0.03"/>
      <body pos="0.3 0 0">
        <joint name="b" axis="0 1 0" damping="0.05"/>
        <geom type="capsule" size="0.02" fromto="0 0 0 0.3 0 0" contype="0" conaffinity="0"/>
      </body>
    </body>
  </worldbody>
  <tendon>
    <fixed name="pair" stiffness="3" damping="0.2" armature="0.02" limited="true" range="-1 1">
      <joint joint="a" coef="1"/><joint joint="b" coef="-0.7"/>
    </fixed>
    <spatial name="cord" stiffness="40" damping="0.3" springlength="0.2">
      <site site="top"/><geom geom="pulley"/><site site="mid"/>
    </spatial>
  </tendon>
  <actuator>
    <motor tendon="pair" gear="1" ctrlrange="-1 1"/>
    <motor joint="b" gear="0.5" ctrlrange="-1 1"/>
  </actuator>
</mujoco>
"""

EQUALITY = """
<mujoco>
  <option timestep="0.005"/>
  <worldbody>
    <body name="a" pos="0 0 1">
      <joint name="a" axis="0 1 0" damping="0.05"/>
      <geom type="capsule" size="0.03" fromto="0 0 0 0 0 0.3" contype="0" conaffinity="0"/>
      <body name="b" pos="0 0 0.3">
        <joint name="b" axis="0 1 0" damping="0.05"/>
        <geom type="capsule" size="0.03" fromto="0 0 0 0.5 0 0" contype="0" conaffinity="0"/>
        <body name="c" pos="0.5 0 0">
          <joint name="c" axis="0 1 0" damping="0.05"/>
          <geom type="capsule" size="0.03" fromto="0 0 0 0 0 -0.3" contype="0" conaffinity="0"/>
        </body>
      </body>
    </body>
    <body name="d" pos="1 0 1">
      <joint name="d" type="slide" axis="0 0 1" damping="1"/>
      <geom type="sphere" size="0.1"/>
    </body>
  </worldbody>
  <equality>
    <connect body1="c" anchor="0 0 -0.3"/>
    <joint joint1="d" joint2="a" polycoef="0 0.5 0.2 0 0"/>
  </equality>
  <actuator>
    <motor joint="a" gear="1" ctrlrange="-1 1"/>
    <motor joint="d" gear="5" ctrlrange="-1 1"/>
  </actuator>
</mujoco>
"""

LIMIT = """
<mujoco>
  <option timestep="0.005"/>
  <worldbody>
    <body pos="0 0 1">
      <joint name="a" axis="0 1 0" damping="0.1" range="-20 20" limited="true"/>
      <geom type="capsule" size="0.03" fromto="0 0 0 0.3 0 0"/>
      <body pos="0.3 0 0">
        <joint name="b" type="slide" axis="1 0 0" damping="0.5" range="-0.05 0.05" limited="true"/>
        <geom type="capsule" size="0.02" fromto="0 0 0 0.3 0 0"/>
      </body>
    </body>
  </worldbody>
  <actuator>
    <motor joint="a" gear="2" ctrlrange="-1 1"/>
    <motor joint="b" gear="6" ctrlrange="-1 1"/>
  </actuator>
</mujoco>
"""

CONTACT = """
<mujoco>
  <option timestep="0.005" cone="{cone}"/>
  <worldbody>
    <geom type="plane" size="5 5 1"/>
    <body pos="0 0 0.12">
      <freejoint/>
      <geom type="box" size="0.15 0.1 0.1" friction="0.8 0.01 0.001"/>
      <body pos="0 0 0.1">
        <joint name="arm" axis="0 1 0" damping="0.1"/>
        <geom type="capsule" size="0.04" fromto="0 0 0 0.3 0 0.05"/>
      </body>
    </body>
    <body pos="0.5 0 0.1">
      <joint name="x" type="slide" axis="1 0 0"/>
      <joint name="z" type="slide" axis="0 0 1"/>
      <geom type="sphere" size="0.1" condim="6" friction="0.9 0.02 0.01"/>
    </body>
  </worldbody>
  <actuator>
    <motor joint="arm" gear="3" ctrlrange="-1 1"/>
    <motor joint="x" gear="20" ctrlrange="-1 1"/>
  </actuator>
</mujoco>
"""

FLUID = """
<mujoco>
  <option timestep="0.005" density="1000" viscosity="0.1" wind="0.5 0.2 0"/>
  <worldbody>
    <body pos="0 0 1">
      <freejoint/>
      <geom type="ellipsoid" size="0.2 0.1 0.05" fluidshape="ellipsoid"/>
      <body pos="0.2 0 0">
        <joint name="tail" axis="0 1 0" damping="0.01"/>
        <geom type="box" size="0.1 0.08 0.02" pos="0.1 0 0"/>
      </body>
    </body>
  </worldbody>
  <actuator><motor joint="tail" gear="3" ctrlrange="-1 1"/></actuator>
</mujoco>
"""

# Forces whose slope in the velocity depends on position, control and activation.
SERVO = """
<mujoco>
  <option timestep="0.005"/>
  <worldbody>
    <body pos="0 0 1">
      <joint name="a" axis="0 1 0" damping="0.1 0.05 0.02" stiffness="1 0.5"/>
      <geom type="capsule" size="0.03" fromto="0 0 0 0.3 0 0"/>
      <body pos="0.3 0 0">
        <joint name="b" axis="0 1 0" damping="0.05" armature="0.01"/>
        <geom type="capsule" size="0.02" fromto="0 0 0 0.3 0 0"/>
        <body pos="0.3 0 0">
          <joint name="c" axis="1 0 0.2" damping="0.02"/>
          <geom type="capsule" size="0.02" fromto="0 0 0 0.1 0 0.1"/>
        </body>
      </body>
    </body>
  </worldbody>
  <actuator>
    <position joint="a" kp="20" kv="1" ctrlrange="-1 1"/>
    <general joint="b" gaintype="affine" gainprm="1 0.3 -0.1" ctrlrange="-1 1"/>
    <velocity joint="c" kv="0.2" ctrlrange="-3 3"/>
    <general joint="c" dyntype="filter" dynprm="0.05" gaintype="affine" gainprm="0.3 0.1 -0.05"
      ctrlrange="-1 1"/>
  </actuator>
</mujoco>
"""

# Masses on springs and dampers, coupled by a tendon: the step is linear in state and control.
LINEAR = """
<mujoco>
  <option timestep="0.01" gravity="0 0 0"/>
  <worldbody>
    <body>
      <joint name="a" type="slide" axis="1 0 0" stiffness="30" damping="1.5"/>
      <geom type="sphere" size="0.1" mass="2"/>
      <body>
        <joint name="b" type="slide" axis="1 0 0" stiffness="20" damping="0.7"/>
        <geom type="sphere" size="0.1" mass="1.5"/>
      </body>
    </body>
  </worldbody>
  <actuator>
    <motor joint="a" gear="3"/>
    <motor joint="b" gear="-2"/>
  </actuator>
</mujoco>
"""

OWN = {
    "ball": BALL,
    "free": FREE,
    "mixed": MIXED,
    "muscle": MUSCLE,
    "clamped": CLAMPED,
    "tendon": TENDON,
    "equality": EQUALITY,
    "limit": LIMIT,
    "contact_pyramidal": CONTACT.format(cone="pyramidal"),
    "contact_elliptic": CONTACT.format(cone="elliptic"),
    "fluid": FLUID,
    "servo": SERVO,
}


def particle(mass: float = 1.0, damping: float = 0.0) -> str:
    """Return the MJCF of a point mass in the horizontal plane, 0.1 s a step, forces in [-1, 1]."""
    return f"""
<mujoco>
  <option timestep="0.1"/>
  <worldbody>
    <body>
      <joint name="x" type="slide" axis="1 0 0" damping="{damping}"/>
      <joint name="y" type="slide" axis="0 1 0" damping="{damping}"/>
      <geom type="sphere" size="0.01" mass="{mass}"/>
    </body>
  </worldbody>
  <actuator>
    <motor joint="x" ctrlrange="-1 1" ctrllimited="true"/>
    <motor joint="y" ctrlrange="-1 1" ctrllimited="true"/>
  </actuator>
</mujoco>
"""


def own(name: str, integrator: str = "Euler") -> mujoco.MjModel:
    """Return a small model, compiled, with the given integrator."""
    model = mujoco.MjModel.from_xml_string(OWN[name])
    model.opt.integrator = INTEGRATORS[integrator]
    return model


def stock(name: str) -> mujoco.MjModel:
    """Return the model of Gymnasium's ``{name}-v5``, as it ships."""
    env = gymnasium.make(f"{name}-v5")
    try:
        return env.unwrapped.model
    finally:
        env.close()


def model_bytes(model: mujoco.MjModel) -> bytes:
    """Return the model as ``mj_saveModel`` writes it."""
    buffer = np.empty(mujoco.mj_sizeModel(model), dtype=np.uint8)
    mujoco.mj_saveModel(model, None, buffer)
    return buffer.tobytes()
