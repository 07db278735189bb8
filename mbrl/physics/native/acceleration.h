// Jacobian of MuJoCo's forward dynamics by implicit differentiation of its optimum.

#pragma once

#include <mujoco/mujoco.h>

#include <vector>

#include "constraints.h"
#include "plan.h"
#include "rigid.h"

namespace mbrl {

enum class Status : int {
  kOk = 0,
  kDiverged,     // numbers that are not finite
  kMemory,       // no room for all contacts or constraints
  kUnconverged,  // the acceleration does not solve the equations of motion
  kGeometry,     // collision functions do not reproduce the engine's contacts
  kRows,         // a constraint appears or vanishes within a difference
  kIntegrator,   // the integrator's update is not the one that is differentiated
  kError,        // MuJoCo raised an error
  kEquations,    // the engine's equations of motion are not the ones that are differentiated
  kKink,         // an actuator's force or rate has a kink at its control or activation
};

// The acceleration a(q, v, act, u) is the root of inverse dynamics
//   F = M a + c(q, v) - passive(q, v) - J' f(J a - aref) - actuation(q, v, act, u),
// so that  F_a da = -(F_q dq + F_v dv + F_act dact + F_u du)  with F_a = M + J' H J.
class Acceleration {
 public:
  // After mj_forward at the state: checks that the acceleration solves the equations of motion, and
  // polishes it by Newton's method if it does not; acceleration and constraint forces in d are then
  // the solution's.
  Status solve(const Plan& plan, const mjModel* m, mjData* d);

  // After solve(). Leaves the state, mj_forward's forces and the mass matrix as
  // they are, but not the derived positions if geometry had to be differenced.
  Status linearize(const Plan& plan, const mjModel* m, mjData* d, double eps);

  const double* qacc() const { return x_.data(); }         // (nv, columns)
  const double* act_dot() const { return rate_.data(); }   // (na, columns)
  const double* mass() const { return mass_.data(); }      // (nv, nv), armature included
  const Rigid& rigid() const { return rigid_; }
  bool displaced() const { return displaced_; }  // derived positions are not the state's any more

 private:
  void fit(const Plan& plan);
  bool balanced(const Plan& plan, const mjModel* m, mjData* d);
  bool balanced_for_engine(const mjModel* m, const mjData* d);
  Status assemble(const Plan& plan, const mjModel* m, mjData* d);
  void springs_and_dampers(const Plan& plan, const mjModel* m);
  Status controls(const Plan& plan, const mjModel* m, mjData* d, double eps);
  void lengths(const Plan& plan, const mjModel* m, mjData* d, double eps, bool velocity);
  void passive_velocities(const Plan& plan, const mjModel* m, mjData* d, double eps);
  void row_velocities(const mjModel* m, mjData* d, double eps);
  Status geometry(const Plan& plan, const mjModel* m, mjData* d, double eps);
  bool sample_rows(const mjModel* m, mjData* d, double* rows);

  bool displaced_ = false;
  Plan::Sizes fitted_{};
  Rigid rigid_;
  Constraints constraints_;
  std::vector<double> mass_, fa_, fq_, fv_, factor_;  // (nv, nv)
  std::vector<double> x_, rate_, residual_;
  std::vector<double> q_, v_, base_, plus_, minus_, force_, transmissions_, trees_;
  std::vector<double> rows_plus_, rows_minus_, row_force_;
  std::vector<int> row_type_, row_id_;
};

}  // namespace mbrl
