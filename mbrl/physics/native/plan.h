// What a model is made of, as far as the choice of formulas depends on it.

#pragma once

#include <mujoco/mujoco.h>

#include <array>
#include <string>
#include <vector>

namespace mbrl {

// How a force depends on position and velocity, from cheap to general.
enum class Actuation {
  kConstant,  // not at all: gains are numbers, moments constant
  kLength,    // through lengths and velocities of transmissions with constant moments
  kGeneral,   // through the geometry
};

enum class Passive {
  kAnalytic,  // linear springs and dampers of hinges and slides, fluid around inertia boxes
  kGeneral,
};

struct Plan {
  using Sizes = std::array<int, 4>;

  explicit Plan(const mjModel* m);
  Sizes sizes() const { return {nq, nv, na, nu}; }

  int nq, nv, na, nu, nx, ndx;
  int columns;  // of a Jacobian of forward dynamics: dq, dv, dact, du
  Actuation actuation;
  Passive passive;
  bool fluid;           // fluid forces are part of the analytic rigid-body derivatives
  bool plain_controls;  // forces are gain times clamped control: no activation, no force limit
  bool velocity_gains;  // some actuator force depends on velocity
  bool damped_euler;    // the Euler integrator is implicit in joint damping
  bool implicit;        // implicit or implicitfast
  bool drifting_damping;  // the slope of smooth forces (not inertial) in velocity is no constant
  std::vector<int> standalone;  // dof addresses of free bodies without jointed descendants
  std::vector<double> low, high;  // bounds of [act, ctrl]: differences stay inside
};

// Whether libmujoco offers what drifting damping needs under implicit integrators.
bool has_smooth_slopes();

// Why the model cannot be differentiated this way; empty if it can.
std::string unsupported(const mjModel* m);

}  // namespace mbrl
