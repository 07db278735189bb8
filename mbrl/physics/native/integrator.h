// What the integrators share.

#pragma once

#include <mujoco/mujoco.h>

#include <cmath>

#include "spatial.h"

namespace mbrl {

constexpr double kLargest = 1e10;  // MuJoCo's own limit of coordinates

inline bool healthy(const double* x, int n) {
  for (int i = 0; i < n; i++) {
    if (!(std::fabs(x[i]) < kLargest)) return false;
  }
  return true;
}

// Whether e is the update (next - v) / h that the engine made.
inline bool same_update(const double* e, const double* v, const double* next, double h, int nv) {
  constexpr double kTolerance = 1e-7;  // relative
  double error = 0, scale = 0;
  for (int i = 0; i < nv; i++) {
    const double made = next[i] - v[i], off = h * e[i] - made;
    error += off * off;
    scale += made * made + 1e-16 * (v[i] * v[i] + next[i] * next[i]);
  }
  return error <= kTolerance * kTolerance * scale + 1e-300;
}

// rows (3, n) = D rows, for the rows of a rotation.
inline void rotate_rows(double* rows, const double* D, int n) {
  for (int j = 0; j < n; j++) {
    const double x[3] = {rows[j], rows[n + j], rows[2 * n + j]};
    for (int i = 0; i < 3; i++) rows[i * n + j] = dot3(D + 3 * i, x);
  }
}

template <class Function>
void each_rotation(const mjModel* m, Function&& function) {
  for (int j = 0; j < m->njnt; j++) {
    if (m->jnt_type[j] == mjJNT_BALL) function(m->jnt_dofadr[j]);
    if (m->jnt_type[j] == mjJNT_FREE) function(m->jnt_dofadr[j] + 3);
  }
}

}  // namespace mbrl
