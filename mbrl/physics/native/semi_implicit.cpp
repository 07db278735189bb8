// Integrators that are implicit in the velocity: Euler with joint damping, implicit, implicitfast.

#include <algorithm>
#include <cmath>

#include "control_step.h"
#include "dense.h"
#include "difference.h"
#include "integrator.h"

// Exported by libmujoco, not declared by its headers: analytic d(passive + actuator forces)/dv with
// the sparsity of M, into qDeriv. Weak: if it is missing, the models that need it are refused.
#if defined(__GNUC__)
extern "C" __attribute__((weak)) void mjd_smooth_vel(const mjModel*, mjData*, int flg_bias);
#else
static constexpr void (*mjd_smooth_vel)(const mjModel*, mjData*, int) = nullptr;
#endif

namespace mbrl {

bool has_smooth_slopes() { return mjd_smooth_vel != nullptr; }

// (M + h D) e = M a:  de = (M + h D)^-1 (M da + d(M w) - h d(D) e), w = a - e.
Status ControlStep::damped(const Plan& p, const mjModel* m, mjData* d, const double* next) {
  const int nv = p.nv, n = p.columns;
  const double h = m->opt.timestep, *M = acceleration_.mass();
  std::copy(M, M + nv * nv, metric_.begin());
  // Of the damping force -(b + b1 |v| + b2 v^2) v, the slope D and the slope's own slope.
  for (int i = 0; i < nv; i++) {
    const double v = d->qvel[i], b1 = m->dof_dampingpoly[mjNPOLY * i],
                 b2 = m->dof_dampingpoly[mjNPOLY * i + 1];
    metric_[i * nv + i] += h * (m->dof_damping[i] + 2 * b1 * std::fabs(v) + 3 * b2 * v * v);
    drift_[i] = h * (2 * b1 * (v > 0 ? 1 : -1) + 6 * b2 * v);
  }
  if (!cholesky(metric_.data(), nv)) return Status::kDiverged;
  mju_mulMatVec(e_.data(), M, d->qacc, nv, nv);
  cholesky_solve(metric_.data(), e_.data(), nv, 1);
  if (!same_update(e_.data(), d->qvel, next, h, nv)) return Status::kIntegrator;
  for (int i = 0; i < nv; i++) w_[i] = d->qacc[i] - e_[i];
  std::fill(plus_.begin(), plus_.end(), 0);
  if (acceleration_.displaced()) {
    mj_kinematics(m, d);
    mj_comPos(m, d);
  }
  other_.compute(m, d, plus_.data(), w_.data(), false, false);
  std::fill(updated_.begin(), updated_.end(), 0);
  for (int i = 0; i < nv; i++) {
    for (int j = 0; j < nv; j++) updated_[i * n + j] = other_.dq()[i * nv + j];
    updated_[i * n + nv + i] = -drift_[i] * e_[i];
  }
  multiply_add(updated_.data(), M, nv, acceleration_.qacc(), nv, nv, n);
  cholesky_solve(metric_.data(), updated_.data(), nv, n);
  return Status::kOk;
}

// smooth_ (nv, columns) = d(Q s), Q the slope of passive and actuator forces in the velocity.
void ControlStep::smooth_slopes(const Plan& p, const mjModel* m, mjData* d, const double* s,
                                double eps) {
  const int nv = p.nv, n = p.columns;
  const bool symmetric = m->opt.integrator == mjINT_IMPLICITFAST;
  const auto evaluate = [&](double* out) {
    mj_fwdVelocity(m, d);
    mj_fwdActuation(m, d);
    mjd_smooth_vel(m, d, 0);
    mju_zero(out, nv);
    for (int i = 0; i < nv; i++) {
      const int start = m->D_rowadr[i];
      for (int k = start; k < start + m->D_rownnz[i]; k++) {
        const int j = m->D_colind[k];
        const double x = (symmetric ? 0.5 : 1.0) * d->qDeriv[k];
        out[i] += x * s[j];
        if (symmetric) out[j] += x * s[i];
      }
    }
  };
  const auto place = [&](const double* direction, double h) {
    mju_copy(d->qpos, state_.data(), p.nq);
    if (direction) mj_integratePos(m, d->qpos, direction, h);
    mj_kinematics(m, d);
    mj_comPos(m, d);
    mj_tendon(m, d);
    mj_transmission(m, d);
  };
  const auto write = [&](int column, const double* high, const double* low) {
    for (int i = 0; i < nv; i++) smooth_[i * n + column] = (high[i] - low[i]) / (2 * eps);
  };
  double* minus = scratch_[0].data();
  double* direction = scratch_[1].data();
  std::fill(smooth_.begin(), smooth_.end(), 0);
  mju_zero(direction, nv);
  for (int j = 0; j < nv; j++) {
    direction[j] = 1;
    place(direction, eps);
    evaluate(plus_.data());
    place(direction, -eps);
    evaluate(minus);
    direction[j] = 0;
    write(j, plus_.data(), minus);
  }
  place(nullptr, 0);
  for (int j = 0; j < nv; j++) {
    const double v = d->qvel[j];
    d->qvel[j] = v + eps;
    evaluate(plus_.data());
    d->qvel[j] = v - eps;
    evaluate(minus);
    d->qvel[j] = v;
    write(nv + j, plus_.data(), minus);
  }
  if (!p.velocity_gains) return;
  double* centre = scratch_[2].data();
  evaluate(centre);
  for (int k = 0; k < p.na + p.nu; k++) {
    double* value = k < p.na ? d->act + k : d->ctrl + (k - p.na);
    const double kept = *value;
    double h1, h2;
    difference_sizes(kept, p.low[k], p.high[k], eps, &h1, &h2);
    *value = kept + h1;
    evaluate(plus_.data());
    *value = kept + h2;
    evaluate(minus);
    *value = kept;
    for (int i = 0; i < nv; i++) {
      smooth_[i * n + 2 * nv + k] = parabola_slope(centre[i], plus_[i], minus[i], h1, h2);
    }
  }
}

// (M - h Q) e = M a:  de = (M - h Q)^-1 (M da + d(M w) + h d(Q) e), w = a - e. Of Q the part that
// belongs to the inertial forces c(q, v) is analytic: c is quadratic in v, so that
//   (dc/dv) e = (c(v + e) - c(v - e)) / 2   and   d((dc/dv) e)/dv = dc/dv at velocity e.
Status ControlStep::implicit(const Plan& p, const mjModel* m, mjData* d, const double* next,
                             double eps) {
  const int nv = p.nv, n = p.columns;
  const double h = m->opt.timestep, *M = acceleration_.mass();
  const bool fast = m->opt.integrator == mjINT_IMPLICITFAST;
  double* Q = inverse_.data();
  std::fill(inverse_.begin(), inverse_.end(), 0);
  for (int i = 0; i < nv; i++) {
    const int start = m->D_rowadr[i];
    for (int k = start; k < start + m->D_rownnz[i]; k++) Q[i * nv + m->D_colind[k]] = d->qDeriv[k];
  }
  if (fast) {
    mju_symmetrize(Q, Q, nv);
    const double* inertial = acceleration_.rigid().dv();
    for (const int s : p.standalone) {
      for (int i = s; i < s + 6; i++) {
        for (int j = s; j < s + 6; j++) Q[i * nv + j] -= inertial[i * nv + j];
      }
    }
  }
  for (int i = 0; i < nv * nv; i++) metric_[i] = M[i] - h * Q[i];
  if (!lu(metric_.data(), pivot_.data(), nv)) return Status::kDiverged;
  mju_mulMatVec(e_.data(), M, d->qacc, nv, nv);
  lu_solve(metric_.data(), pivot_.data(), e_.data(), nv, 1);
  if (!same_update(e_.data(), d->qvel, next, h, nv)) return Status::kIntegrator;
  for (int i = 0; i < nv; i++) w_[i] = d->qacc[i] - e_[i];

  std::fill(updated_.begin(), updated_.end(), 0);
  if (p.drifting_damping) {
    smooth_slopes(p, m, d, e_.data(), eps);
    for (int i = 0; i < nv * n; i++) updated_[i] = h * smooth_[i];
  }
  mju_copy(d->qpos, state_.data(), p.nq);
  mj_kinematics(m, d);
  mj_comPos(m, d);
  double *zero = scratch_[0].data(), *velocity = scratch_[1].data(), *along = scratch_[2].data();
  mju_zero(zero, nv);
  const auto add = [&](const double* slope, int column, double scale, int begin, int end) {
    for (int i = begin; i < end; i++) {
      for (int j = begin; j < end; j++) {
        updated_[i * n + column + j] += scale * slope[i * nv + j];
      }
    }
  };
  other_.compute(m, d, zero, w_.data(), false, false);
  add(other_.dq(), 0, 1, 0, nv);
  const auto inertial = [&](int begin, int end) {
    mju_zero(along, nv);
    mju_copy(along + begin, e_.data() + begin, end - begin);
    for (const double sign : {1.0, -1.0}) {
      for (int i = 0; i < nv; i++) velocity[i] = d->qvel[i] + sign * along[i];
      other_.compute(m, d, velocity, zero, false, false);
      add(other_.dq(), 0, -0.5 * sign * h, begin, end);
    }
    other_.compute(m, d, along, zero, false, false);
    add(other_.dv(), nv, -h, begin, end);
  };
  if (!fast) {
    inertial(0, nv);
  } else {
    for (const int s : p.standalone) inertial(s, s + 6);
  }
  multiply_add(updated_.data(), M, nv, acceleration_.qacc(), nv, nv, n);
  lu_solve(metric_.data(), pivot_.data(), updated_.data(), nv, n);
  return Status::kOk;
}

}  // namespace mbrl
