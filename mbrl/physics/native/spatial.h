// Spatial (6-D) algebra in MuJoCo's order: rotation first, then translation.
//
// Motion vectors are [angular; linear velocity of the point at the reference], forces are
// [moment about the reference; force]. Everything belongs to one inertial frame that is fixed
// while it is differentiated: world axes, the origin at the centre of mass of the tree.

#pragma once

namespace mbrl {

inline void cross3(double* r, const double* a, const double* b) {
  const double x = a[1] * b[2] - a[2] * b[1];
  const double y = a[2] * b[0] - a[0] * b[2];
  const double z = a[0] * b[1] - a[1] * b[0];
  r[0] = x;
  r[1] = y;
  r[2] = z;
}

inline double dot3(const double* a, const double* b) {
  return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

inline double dot6(const double* a, const double* b) {
  return a[0] * b[0] + a[1] * b[1] + a[2] * b[2] + a[3] * b[3] + a[4] * b[4] + a[5] * b[5];
}

// r = v x m, how a motion vector m changes in a frame that moves with v.
inline void cross_motion(double* r, const double* v, const double* m) {
  double a[3], b[3], c[3];
  cross3(a, v, m);
  cross3(b, v, m + 3);
  cross3(c, v + 3, m);
  for (int i = 0; i < 3; i++) {
    r[i] = a[i];
    r[3 + i] = b[i] + c[i];
  }
}

// r = v x* f, how a force f changes in a frame that moves with v.
inline void cross_force(double* r, const double* v, const double* f) {
  double a[3], b[3], c[3];
  cross3(a, v, f);
  cross3(b, v + 3, f + 3);
  cross3(c, v, f + 3);
  for (int i = 0; i < 3; i++) {
    r[i] = a[i] + b[i];
    r[3 + i] = c[i];
  }
}

// r = I v, with I in MuJoCo's ten numbers: xx, yy, zz, xy, xz, yz, mass * centre, mass.
inline void inertia_times(double* r, const double* I, const double* v) {
  r[0] = I[0] * v[0] + I[3] * v[1] + I[4] * v[2] - I[8] * v[4] + I[7] * v[5];
  r[1] = I[3] * v[0] + I[1] * v[1] + I[5] * v[2] + I[8] * v[3] - I[6] * v[5];
  r[2] = I[4] * v[0] + I[5] * v[1] + I[2] * v[2] - I[7] * v[3] + I[6] * v[4];
  r[3] = I[8] * v[1] - I[7] * v[2] + I[9] * v[3];
  r[4] = I[6] * v[2] - I[8] * v[0] + I[9] * v[4];
  r[5] = I[7] * v[0] - I[6] * v[1] + I[9] * v[5];
}

// Velocity (or displacement) of the point at offset p from the reference.
inline void point_motion(double* r, const double* v, const double* p) {
  cross3(r, v, p);
  for (int i = 0; i < 3; i++) r[i] += v[3 + i];
}

}  // namespace mbrl
