// Jacobian of a control step: the integrators on top of forward dynamics, chained over substeps.

#pragma once

#include <mujoco/mujoco.h>

#include <vector>

#include "acceleration.h"
#include "plan.h"

namespace mbrl {

// Carries the tangents of the state, T (ndx, n) with n = ndx + nu columns for the initial state and
// the control, through frame_skip physics steps: in the end T = [A B].
class ControlStep {
 public:
  // The state and the control must be in d.
  Status linearize(const Plan& plan, const mjModel* m, mjData* d, int frame_skip, double eps);

  // Derivatives (nsensordata, columns) of the sensor values that frame_skip steps leave, which
  // belong to the state before the last of them, with respect to the initial state and the control.
  Status sensors(const Plan& plan, const mjModel* m, mjData* d, int frame_skip, double eps,
                 double* out);

  const double* tangents() const { return tangents_.data(); }

 private:
  void fit(const Plan& plan);
  Status forward(const mjModel* m, mjData* d);
  void propagate(double* out, const Plan& plan, const double* jacobian, int rows,
                 const double* tangents);
  Status euler(const Plan& plan, const mjModel* m, mjData* d, double eps);
  Status damped(const Plan& plan, const mjModel* m, mjData* d, const double* next);
  Status implicit(const Plan& plan, const mjModel* m, mjData* d, const double* next, double eps);
  void smooth_slopes(const Plan& plan, const mjModel* m, mjData* d, const double* direction,
                     double eps);
  Status runge_kutta(const Plan& plan, const mjModel* m, mjData* d, double eps);
  void activations(const Plan& plan, const mjModel* m, const double* act, const double* rate,
                   const double* rate_tangents, double* tangents, double* next);
  void positions(const Plan& plan, const mjModel* m, const double* velocity,
                 const double* velocity_tangents, double* tangents);
  void load(const Plan& plan, mjData* d, const double* x);

  Plan::Sizes fitted_{};
  Acceleration acceleration_;
  Rigid other_;
  bool fresh_ = true;  // the tangents are still the identity
  std::vector<double> tangents_, at_stage_, accelerated_, rates_, next_, act_dot_;
  std::vector<double> metric_, inverse_, updated_, smooth_;
  std::vector<double> state_, start_, stage_tangents_, sum_;
  std::vector<double> a_, e_, w_, plus_, drift_;
  std::vector<double> scratch_[3], sensed_, residuals_;
  std::vector<int> pivot_;
};

}  // namespace mbrl
