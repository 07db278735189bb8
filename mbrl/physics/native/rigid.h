// Analytic derivatives of recursive Newton-Euler inverse dynamics.

#pragma once

#include <mujoco/mujoco.h>

#include <vector>

namespace mbrl {

// tau(q, v, a) = M(q) a + c(q, v) of the bodies (armature apart), minus fluid forces if asked for,
// and its derivatives along the tangent of q and along v.
//
// In one inertial frame a displacement along dof j turns the whole subtree of j like a rigid body,
// so that with S_j the axis, v_p and a_p velocity and acceleration before the joint, and
//   w_j = S_j x v_p,   z_j = S_j x a_p - w_j x v_p,   u_j = (v_p + v_after) x S_j,
//   B w = v x* (I w) + w x* (I v) - I (v x w),
// the force on a body changes by  S_j x* f - I z_j - B w_j  with q_j and by  I u_j + B S_j  with
// v_j. Sums of I, B and f over subtrees then give every entry of the two matrices by products of
// six-vectors. (The idea of composite operators: Singh, Russell and Wensing, "Efficient analytical
// derivatives of rigid-body dynamics using spatial vector algebra", 2022, section IV.)
class Rigid {
 public:
  // Positions must have been computed: mj_kinematics and mj_comPos.
  void compute(const mjModel* m, const mjData* d, const double* qvel, const double* qacc,
               bool gravity, bool fluid);

  const double* tau() const { return tau_.data(); }      // (nv)
  const double* dq() const { return dq_.data(); }        // (nv, nv)
  const double* dv() const { return dv_.data(); }        // (nv, nv)
  const double* inertia() const { return M_.data(); }    // (nv, nv), without armature

  // Of the bodies, about the reference of their tree.
  const double* velocity(int body) const { return &v_[6 * body]; }
  // Of the dofs: the velocity before the joint.
  const double* velocity_before(int dof) const { return &vp_[6 * dof]; }

 private:
  void fit(const mjModel* m);
  void forward(const mjModel* m, const mjData* d, const double* qvel, const double* qacc,
               bool gravity);
  void composites(const mjModel* m, const mjData* d, bool fluid);
  void add_fluid(const mjModel* m, const mjData* d, int body);
  void operators(double* r, int body, const double* w, bool transposed, bool fluid) const;

  std::vector<double> v_, a_, f_, inertia_, brr_, momentum_, drag_;  // per body
  std::vector<double> vp_, w_, z_, u_, y_, e_, P_, Q_;               // per dof
  std::vector<double> tau_, dq_, dv_, M_;
};

// The dofs that move at once with dof j: the three of a ball, otherwise j alone.
struct Tied {
  int begin, end;
};
Tied tied(const mjModel* m, int dof);

}  // namespace mbrl
