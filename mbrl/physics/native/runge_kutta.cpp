// The integrator RK4.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "control_step.h"
#include "integrator.h"

namespace mbrl {

namespace {

// kappa(u, w) of the Runge-Kutta-Munthe-Kaas method: the rate of the rotation vector u in
// q = q0 exp(u) at body velocity w,
//   kappa = w + u x w / 2 + c(|u|) u x (u x w),   c(t) = (1 - t/2 cot(t/2)) / t^2,
// and its derivatives (3, 3).
void rotation_rate(double* rate, double* by_u, double* by_w, const double* u, const double* w) {
  const double t2 = dot3(u, u), t = std::sqrt(t2);
  double c, slope;  // c(t) and c'(t) / t
  if (t < 1e-2) {
    c = 1.0 / 12 + t2 / 720 + t2 * t2 / 30240;
    slope = 1.0 / 360 + t2 / 7560;
  } else {
    const double half = t / 2, g = half / std::tan(half), sine = std::sin(half);
    const double dg = 0.5 / std::tan(half) - 0.5 * half / (sine * sine);
    c = (1 - g) / t2;
    slope = (-dg / t2 - 2 * (1 - g) / (t2 * t)) / t;
  }
  double uw[3], uuw[3];
  cross3(uw, u, w);
  cross3(uuw, u, uw);
  for (int i = 0; i < 3; i++) rate[i] = w[i] + 0.5 * uw[i] + c * uuw[i];
  for (int k = 0; k < 3; k++) {
    double e[3] = {0, 0, 0}, x[3], y[3], z[3];
    e[k] = 1;
    cross3(x, u, e);
    cross3(y, u, x);
    for (int i = 0; i < 3; i++) by_w[3 * i + k] = e[i] + 0.5 * x[i] + c * y[i];
    cross3(x, e, w);
    cross3(y, e, uw);
    cross3(z, u, x);
    for (int i = 0; i < 3; i++) {
      by_u[3 * i + k] = 0.5 * x[i] + c * (y[i] + z[i]) + slope * u[k] * uuw[i];
    }
  }
}

}  // namespace

// Classical fourth order; on rotations in the variant of Munthe-Kaas, as MuJoCo 4.0 has it.
Status ControlStep::runge_kutta(const Plan& p, const mjModel* m, mjData* d, double eps) {
  static constexpr double kReach[4] = {0, 0.5, 0.5, 1};
  static constexpr double kWeight[4] = {1.0 / 6, 1.0 / 3, 1.0 / 3, 1.0 / 6};
  const int nv = p.nv, na = p.na, n = p.columns;
  const double h = m->opt.timestep;
  mju_copy(start_.data(), d->qpos, p.nq);
  mju_copy(start_.data() + p.nq, d->qvel, nv);
  mju_copy(start_.data() + p.nq + nv, d->act, na);
  // Slopes of the last stage and their weighted sums: (dq rate, dv rate, dact rate).
  std::vector<double>&slope = stage_tangents_, &sum = sum_;
  double *rate = state_.data(), *total = next_.data();  // (nv + nv + na)
  std::fill(sum.begin(), sum.end(), 0);
  mju_zero(total, 2 * nv + na);
  double* at = at_stage_.data();  // tangents at the stage
  std::vector<double>& u = a_;
  mju_zero(u.data(), nv);
  for (int stage = 0; stage < 4; stage++) {
    const double* tangents = tangents_.data();
    if (stage) {
      const double c = h * kReach[stage];
      tangents = at;
      std::memcpy(at, tangents_.data(), sizeof(double) * p.ndx * n);
      for (int i = 0; i < nv; i++) u[i] = c * rate[i];
      for (int i = 0; i < p.ndx * n; i++) slope[i] *= c;
      positions(p, m, u.data(), slope.data(), at);
      for (int i = nv * n; i < p.ndx * n; i++) at[i] += slope[i];
      mju_copy(d->qpos, start_.data(), p.nq);
      mj_integratePos(m, d->qpos, u.data(), 1);
      for (int i = 0; i < nv; i++) d->qvel[i] = start_[p.nq + i] + c * rate[nv + i];
      for (int i = 0; i < na; i++) d->act[i] = start_[p.nq + nv + i] + c * rate[2 * nv + i];
    }
    Status status = forward(m, d);
    if (status == Status::kOk) status = acceleration_.solve(p, m, d);
    if (status != Status::kOk) return status;
    mju_copy(d->qacc_warmstart, d->qacc, nv);
    mju_copy(rate, d->qvel, nv);
    mju_copy(rate + nv, d->qacc, nv);
    mju_copy(rate + 2 * nv, d->act_dot, na);
    status = acceleration_.linearize(p, m, d, eps);
    if (status != Status::kOk) return status;
    // slope still holds the tangents of u where the stage is not the first.
    double *dq = slope.data(), *dv = dq + nv * n;
    const double* v = tangents + nv * n;
    each_rotation(m, [&](int i) {
      double value[3], by_u[9], by_w[9];
      rotation_rate(value, by_u, by_w, u.data() + i, d->qvel + i);
      mju_copy3(rate + i, value);
      double* rows = dq + i * n;
      if (stage == 0) std::fill(rows, rows + 3 * n, 0);
      rotate_rows(rows, by_u, n);
      for (int j = 0; j < n; j++) {
        const double x[3] = {v[i * n + j], v[(i + 1) * n + j], v[(i + 2) * n + j]};
        for (int k = 0; k < 3; k++) rows[k * n + j] += dot3(by_w + 3 * k, x);
      }
    });
    for (int j = 0; j < m->njnt; j++) {
      const int i = m->jnt_dofadr[j], type = m->jnt_type[j];
      const int rows = type == mjJNT_FREE ? 3 : (type == mjJNT_BALL ? 0 : 1);
      std::memcpy(dq + i * n, v + i * n, sizeof(double) * rows * n);
    }
    propagate(dv, p, acceleration_.qacc(), nv, tangents);
    if (na) propagate(dv + nv * n, p, acceleration_.act_dot(), na, tangents);
    for (int i = 0; i < p.ndx * n; i++) sum[i] += kWeight[stage] * slope[i];
    for (int i = 0; i < 2 * nv + na; i++) total[i] += kWeight[stage] * rate[i];
  }
  double *q = tangents_.data(), *v = q + nv * n, *act = v + nv * n;
  for (int i = 0; i < nv; i++) u[i] = h * total[i];
  // Beyond half a turn in one step the logarithm of a rotation starts anew.
  bool turned = false;
  each_rotation(m, [&](int i) { turned |= dot3(&u[i], &u[i]) > mjPI * mjPI; });
  if (turned) return Status::kIntegrator;
  for (int i = 0; i < 2 * nv * n; i++) sum[i] *= h;
  positions(p, m, u.data(), sum.data(), q);
  for (int i = 0; i < nv * n; i++) v[i] += sum[nv * n + i];
  activations(p, m, start_.data() + p.nq + nv, total + 2 * nv, sum.data() + 2 * nv * n, act,
              rate);
  mju_copy(d->qpos, start_.data(), p.nq);
  mj_integratePos(m, d->qpos, u.data(), 1);
  for (int i = 0; i < nv; i++) d->qvel[i] = start_[p.nq + i] + h * total[nv + i];
  mju_copy(d->act, rate, na);
  return healthy(d->qpos, p.nq) && healthy(d->qvel, nv) ? Status::kOk : Status::kDiverged;
}

}  // namespace mbrl
