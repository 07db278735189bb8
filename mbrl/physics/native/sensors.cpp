// Jacobians of sensor values: C = ds/dx, D = ds/du.

#include <algorithm>
#include <vector>

#include "control_step.h"
#include "difference.h"

namespace mbrl {

namespace {

// Sensors at the state and the acceleration in d: like mj_forward, but with constraint forces from
// the acceleration in closed form instead of the solver.
void sense(const mjModel* m, mjData* d, const double* qacc, std::vector<double>& jar) {
  const int nv = static_cast<int>(m->nv);
  d->flg_energypos = d->flg_energyvel = d->flg_subtreevel = d->flg_rnepost = 0;
  mj_fwdPosition(m, d);
  mj_sensorPos(m, d);
  mj_fwdVelocity(m, d);
  mj_sensorVel(m, d);
  mj_fwdActuation(m, d);
  mju_copy(d->qacc, qacc, nv);
  if (d->nefc) {
    if (jar.size() < static_cast<size_t>(d->nefc)) jar.resize(2 * d->nefc);
    mj_mulJacVec(m, d, jar.data(), d->qacc);
    for (int i = 0; i < d->nefc; i++) jar[i] -= d->efc_aref[i];
    mj_constraintUpdate(m, d, jar.data(), nullptr, 0);
  } else {
    mju_zero(d->qfrc_constraint, nv);
  }
  mj_sensorAcc(m, d);
}

}  // namespace

Status ControlStep::sensors(const Plan& p, const mjModel* m, mjData* d, int frame_skip, double eps,
                            double* out) {
  Status status = linearize(p, m, d, frame_skip - 1, eps);
  if (status == Status::kOk) status = forward(m, d);
  if (status == Status::kOk) status = acceleration_.solve(p, m, d);
  if (status != Status::kOk) return status;
  const int nv = p.nv, n = p.columns, ns = static_cast<int>(m->nsensordata);
  mju_copy(state_.data(), d->qpos, p.nq);
  mju_copy(state_.data() + p.nq, d->qvel, nv);
  mju_copy(state_.data() + p.nq + nv, d->act, p.na);
  status = acceleration_.linearize(p, m, d, eps);
  if (status != Status::kOk) return status;
  load(p, d, state_.data());
  mju_copy(a_.data(), d->qacc, nv);

  sensed_.resize(static_cast<size_t>(ns) * (n + 3));
  double *slopes = sensed_.data(), *centre = slopes + ns * n, *plus = centre + ns,
         *minus = plus + ns;
  double *direction = scratch_[0].data(), *qacc = scratch_[1].data();
  const auto evaluate = [&](int column, double h, double* values) {
    load(p, d, state_.data());
    const double* slope = acceleration_.qacc();
    for (int i = 0; i < nv; i++) qacc[i] = a_[i] + h * slope[i * n + column];
    double* control = column < p.ndx ? nullptr : d->ctrl + (column - p.ndx);
    const double kept = control ? *control : 0;
    if (column < nv) {
      mju_zero(direction, nv);
      direction[column] = 1;
      mj_integratePos(m, d->qpos, direction, h);
    } else if (column < 2 * nv) {
      d->qvel[column - nv] += h;
    } else if (!control) {
      d->act[column - 2 * nv] += h;
    } else {
      *control += h;
    }
    sense(m, d, qacc, residuals_);
    if (control) *control = kept;
    mju_copy(values, d->sensordata, ns);
  };
  evaluate(0, 0, centre);
  for (int c = 0; c < n; c++) {
    double h1 = eps, h2 = -eps;
    if (c >= 2 * nv) {
      const int k = c - 2 * nv;
      const double value = k < p.na ? state_[p.nq + nv + k] : d->ctrl[k - p.na];
      difference_sizes(value, p.low[k], p.high[k], eps, &h1, &h2);
    }
    evaluate(c, h1, plus);
    evaluate(c, h2, minus);
    for (int i = 0; i < ns; i++) {
      slopes[i * n + c] = parabola_slope(centre[i], plus[i], minus[i], h1, h2);
    }
  }
  load(p, d, state_.data());
  propagate(out, p, slopes, ns, tangents_.data());
  return Status::kOk;
}

}  // namespace mbrl
