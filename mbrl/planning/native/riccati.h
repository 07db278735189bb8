// The backward pass of iLQR for one trajectory: Riccati's recursion with bounds on the controls.

#pragma once

#include <vector>

#include "box_qp.h"

namespace mbrl {

// The local problem at one step, row-major: linear dynamics, a quadratic cost, bounds of du.
struct Step {
  const double *a, *b;            // (ndx, ndx), (ndx, nu)
  const double *x, *u;            // gradients
  const double *xx, *ux, *uu;     // Hessians; ux is (nu, ndx)
  const double *low, *high, *start;
};

// The formulas of mbrl/planning/riccati.py, which gives their sources. Symmetric matrices are
// computed in one triangle; nothing is allocated after construction.
class Riccati {
 public:
  Riccati(int ndx, int nu);

  void begin(const double* final_x, const double* final_xx);

  // One step backward: the feedforward k (nu) and the gains K (nu, ndx), both zero before, and
  // what they add to the promises; false if Q_uu is not positive definite.
  bool back(const Step& step, double mu, bool of_state, double* k, double* gains, double* linear,
            double* quadratic);

 private:
  void expand(const Step& step);
  void regularise(double mu, bool of_state);
  void find_gains(double* gains);
  void update(const double* k, double* linear, double* quadratic);

  int ndx_, nu_, n_;                // n = nu + ndx: controls come first
  std::vector<double> v_x_, v_xx_;  // the value
  std::vector<double> f_, vf_;      // F = [B A] (ndx, n) and V_xx F
  std::vector<double> q_, qq_;      // gradient (n) and Hessian (n, n; upper) of Q
  std::vector<double> uu_;          // Q_uu, both triangles
  std::vector<double> scaled_b_, tilde_, tilde_uu_;  // mu B; [Q_uu Q_ux] (nu, n; upper) and Q_uu
  std::vector<double> km_, mk_, uu_free_;  // [K; M], [M; K] and Q_uu / 2, of free entries
  std::vector<double> slope_;              // Q_uu k
  BoxQp box_;
};

}  // namespace mbrl
