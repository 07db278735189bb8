#include "acceleration.h"

#include <algorithm>
#include <cmath>

#include "dense.h"
#include "difference.h"

namespace mbrl {

namespace {

// The equations of motion must balance to this part of the forces in them.
constexpr double kBalance = 1e-9;
constexpr int kPolishing = 10;

// Whether a muscle is excited as much as it is active: it rises and falls at different rates, and
// at the ends of their range the differences of each see one of them.
bool balanced_muscle(const mjModel* m, const mjData* d, double eps) {
  for (int i = 0; i < m->nactuator; i++) {
    const bool smooth = m->actuator_dynprm[mjNDYN * i + 2] > eps;
    if (m->actuator_dyntype[i] != mjDYN_MUSCLE || smooth) continue;
    const double ctrl = mju_clip(d->ctrl[m->actuator_ctrladr[i]], 0, 1);
    const double act = d->act[m->actuator_actadr[i] + m->actuator_actnum[i] - 1];
    if (std::fabs(ctrl - act) <= 2 * eps) return true;
  }
  return false;
}

}  // namespace

void Acceleration::fit(const Plan& p) {
  if (fitted_ == p.sizes()) return;
  fitted_ = p.sizes();
  for (auto* a : {&mass_, &fa_, &fq_, &fv_, &factor_}) a->assign(p.nv * p.nv, 0);
  x_.assign(p.nv * p.columns, 0);
  rate_.assign(std::max(1, p.na * p.columns), 0);
  residual_.assign(p.nv, 0);
  q_.assign(p.nq, 0);
  v_.assign(p.nv, 0);
  for (auto* a : {&base_, &plus_, &minus_, &force_}) a->assign(p.nv + p.na, 0);
}

// Whether F(q, v, a, u) vanishes at the acceleration in d; leaves F in residual_.
bool Acceleration::balanced(const Plan& p, const mjModel* m, mjData* d) {
  constraints_.update(m, d);
  rigid_.compute(m, d, d->qvel, d->qacc, true, p.fluid);
  // What the engine's mass matrix has beyond the bodies', armature, is constant.
  mj_fullM(m, d, mass_.data());
  mju_sub(fa_.data(), mass_.data(), rigid_.inertia(), p.nv * p.nv);
  mju_mulMatVec(residual_.data(), fa_.data(), d->qacc, p.nv, p.nv);
  // Forces may cancel all but for rounding, in free fall even within the inertial ones: what they
  // are held against is the size of their parts.
  // So that no heavy tree hides a light one, every tree is held against its own.
  std::fill(trees_.begin(), trees_.end(), 0);
  for (int i = 0; i < p.nv; i++) {
    double &error = trees_[2 * m->dof_treeid[i]], &scale = trees_[2 * m->dof_treeid[i] + 1];
    const double inertial = rigid_.tau()[i] + residual_[i];
    const double passive = d->qfrc_passive[i] - (p.fluid ? d->qfrc_fluid[i] : 0);
    const double f = inertial - passive - d->qfrc_actuator[i] - d->qfrc_constraint[i];
    residual_[i] = f;
    error += f * f;
    double weight = 0;
    for (int j = 0; j < p.nv; j++) weight += std::fabs(mass_[i * p.nv + j] * d->qacc[j]);
    for (const double part : {weight, d->qfrc_bias[i], d->qfrc_passive[i], d->qfrc_actuator[i],
                              d->qfrc_constraint[i]}) {
      scale += part * part;
    }
  }
  for (size_t t = 0; t < trees_.size(); t += 2) {
    if (!(trees_[t] <= kBalance * kBalance * trees_[t + 1])) return false;
  }
  return true;
}

// Whether the engine's own equations of motion balance: then they are not the ones that are
// differentiated here if those do not.
bool Acceleration::balanced_for_engine(const mjModel* m, const mjData* d) {
  const int nv = static_cast<int>(m->nv);
  mj_mulM(m, d, force_.data(), d->qacc);
  double error = 0, own = 0;
  for (int i = 0; i < nv; i++) {
    const double f = force_[i] - d->qfrc_smooth[i] - d->qfrc_constraint[i];
    error += f * f;
    own += residual_[i] * residual_[i];
  }
  return error < 0.25 * own;
}

Status Acceleration::assemble(const Plan& p, const mjModel* m, mjData* d) {
  const int nv = p.nv, n = nv * nv;
  fa_ = mass_;
  std::copy(rigid_.dq(), rigid_.dq() + n, fq_.begin());
  std::copy(rigid_.dv(), rigid_.dv() + n, fv_.begin());
  constraints_.add_metric(m, d, {fa_.data(), fq_.data(), fv_.data()});
  factor_ = fa_;
  return cholesky(factor_.data(), nv) ? Status::kOk : Status::kUnconverged;
}

void Acceleration::springs_and_dampers(const Plan& p, const mjModel* m) {
  const int nv = p.nv;
  if (!(m->opt.disableflags & mjDSBL_SPRING)) {
    for (int j = 0; j < m->njnt; j++) {
      const int i = m->jnt_dofadr[j];
      if (m->jnt_stiffness[j] != 0) fq_[i * nv + i] += m->jnt_stiffness[j];
    }
  }
  if (!(m->opt.disableflags & mjDSBL_DAMPER)) {
    for (int i = 0; i < nv; i++) fv_[i * nv + i] += m->dof_damping[i];
  }
}

// Columns of act and ctrl: how actuator forces and activation rates depend on them.
Status Acceleration::controls(const Plan& p, const mjModel* m, mjData* d, double eps) {
  const int nv = p.nv, na = p.na, n = p.columns;
  if (p.plain_controls) {
    const bool off = m->opt.disableflags & mjDSBL_ACTUATION;
    for (int u = 0; u < p.nu; u++) {
      const double c = d->ctrl[u];
      if (off || c < p.low[na + u] || c > p.high[na + u]) continue;
      const double gain = m->actuator_gainprm[mjNGAIN * u];
      const int start = d->moment_rowadr[u];
      for (int k = start; k < start + d->moment_rownnz[u]; k++) {
        x_[d->moment_colind[k] * n + p.ndx + u] = gain * d->actuator_moment[k];
      }
    }
    return Status::kOk;
  }
  // Slopes of substeps on either side must not be mixed in a chain.
  if (balanced_muscle(m, d, eps)) return Status::kKink;
  for (int i = 0; i < na + p.nu; i++) {
    double* value = i < na ? d->act + i : d->ctrl + (i - na);
    const double kept = *value;
    double h1, h2;
    difference_sizes(kept, p.low[i], p.high[i], eps, &h1, &h2);
    *value = kept + h1;
    h1 = *value - kept;
    mj_fwdActuation(m, d);
    mju_copy(plus_.data(), d->qfrc_actuator, nv);
    mju_copy(plus_.data() + nv, d->act_dot, na);
    *value = kept + h2;
    h2 = *value - kept;
    mj_fwdActuation(m, d);
    *value = kept;
    const int column = 2 * nv + i;
    bool kink = false;
    for (int k = 0; k < nv; k++) {
      x_[k * n + column] = parabola_slope(base_[k], plus_[k], d->qfrc_actuator[k], h1, h2);
      kink |= bends(base_[k], plus_[k], d->qfrc_actuator[k], h1, h2);
    }
    for (int k = 0; k < na; k++) {
      rate_[k * n + column] = parabola_slope(base_[nv + k], plus_[nv + k], d->act_dot[k], h1, h2);
      kink |= bends(base_[nv + k], plus_[nv + k], d->act_dot[k], h1, h2);
    }
    if (kink) return Status::kKink;
  }
  return Status::kOk;
}

// Actuator forces through lengths (or velocities) of transmissions, along every dof.
void Acceleration::lengths(const Plan& p, const mjModel* m, mjData* d, double eps, bool velocity) {
  const int nv = p.nv;
  mjtNum* state = velocity ? d->actuator_velocity : d->actuator_length;
  double* target = velocity ? fv_.data() : fq_.data();
  const auto shift = [&](int dof, double h) {
    bool found = false;
    for (int o = 0; o < m->nout; o++) {
      const int start = d->moment_rowadr[o];
      for (int k = start; k < start + d->moment_rownnz[o]; k++) {
        if (d->moment_colind[k] != dof) continue;
        state[o] += h * d->actuator_moment[k];
        found = found || d->actuator_moment[k] != 0;
      }
    }
    return found;
  };
  transmissions_.assign(state, state + m->nout);
  for (int j = 0; j < nv; j++) {
    if (!shift(j, eps)) continue;
    mj_fwdActuation(m, d);
    mju_copy(plus_.data(), d->qfrc_actuator, nv);
    mju_copy(plus_.data() + nv, d->act_dot, p.na);
    mju_copy(state, transmissions_.data(), m->nout);
    shift(j, -eps);
    mj_fwdActuation(m, d);
    mju_copy(state, transmissions_.data(), m->nout);
    for (int i = 0; i < nv; i++) {
      target[i * nv + j] -= (plus_[i] - d->qfrc_actuator[i]) / (2 * eps);
    }
    const int column = velocity ? nv + j : j;
    for (int k = 0; k < p.na; k++) {
      rate_[k * p.columns + column] = (plus_[nv + k] - d->act_dot[k]) / (2 * eps);
    }
  }
}

void Acceleration::passive_velocities(const Plan& p, const mjModel* m, mjData* d, double eps) {
  const int nv = p.nv;
  for (int j = 0; j < nv; j++) {
    d->qvel[j] = v_[j] + eps;
    mj_fwdVelocity(m, d);
    mju_copy(plus_.data(), d->qfrc_passive, nv);
    d->qvel[j] = v_[j] - eps;
    mj_fwdVelocity(m, d);
    d->qvel[j] = v_[j];
    for (int i = 0; i < nv; i++) {
      fv_[i * nv + j] -= (plus_[i] - d->qfrc_passive[i]) / (2 * eps);
    }
  }
  mj_fwdVelocity(m, d);
}

// The rows before the contacts at a displaced pose: per row its residual, the logarithm of its
// weight, and its Jacobian. False if they are not the rows of the centre.
bool Acceleration::sample_rows(const mjModel* m, mjData* d, double* rows) {
  const int nv = static_cast<int>(m->nv), count = static_cast<int>(row_type_.size());
  d->ncon = 0;
  mj_makeConstraint(m, d);
  mj_comVel(m, d);  // connects and welds have a term of the velocity in their reference
  mj_referenceConstraint(m, d);
  if (d->nefc != count) return false;
  for (int i = 0; i < count; i++) {
    if (d->efc_type[i] != row_type_[i] || d->efc_id[i] != row_id_[i]) return false;
    double *row = rows + i * (nv + 2), *J = row + 2;
    mju_zero(J, nv);
    if (mj_isSparse(m)) {
      const int start = d->efc_J_rowadr[i];
      for (int k = start; k < start + d->efc_J_rownnz[i]; k++) J[d->efc_J_colind[k]] = d->efc_J[k];
    } else {
      mju_copy(J, d->efc_J + i * nv, nv);
    }
    row[0] = mju_dot(J, d->qacc, nv) - d->efc_aref[i];
    row[1] = std::log(d->efc_D[i]);
  }
  return true;
}

// The reference accelerations of connects and welds contain dJ/dt v, quadratic in v; what is linear
// in v is there already.
void Acceleration::row_velocities(const mjModel* m, mjData* d, double eps) {
  const int nv = static_cast<int>(m->nv), count = constraints_.general_rows().count;
  if (std::none_of(d->efc_type, d->efc_type + count,
                   [](int type) { return type == mjCNSTR_EQUALITY; })) {
    return;
  }
  if (rows_plus_.size() < static_cast<size_t>(count)) rows_plus_.resize(count);
  const Sink sink{fa_.data(), fq_.data(), fv_.data()};
  for (int j = 0; j < nv; j++) {
    d->qvel[j] = v_[j] + eps;
    mj_comVel(m, d);
    mj_referenceConstraint(m, d);
    mju_copy(rows_plus_.data(), d->efc_aref, count);
    d->qvel[j] = v_[j] - eps;
    mj_comVel(m, d);
    mj_referenceConstraint(m, d);
    d->qvel[j] = v_[j];
    for (int i = 0; i < d->ne; i++) {
      constraints_.add_general_velocity(i, d->efc_KBIP[4 * i + 1], j,
                                        (rows_plus_[i] - d->efc_aref[i]) / (2 * eps), sink);
    }
  }
  mj_comVel(m, d);
  mj_referenceConstraint(m, d);
}

// Everything that has to move the geometry: general passive and actuator forces, general rows.
Status Acceleration::geometry(const Plan& p, const mjModel* m, mjData* d, double eps) {
  const int nv = p.nv;
  const GeneralRows& general = constraints_.general_rows();
  const bool passive = p.passive == Passive::kGeneral;
  const bool actuation = p.actuation == Actuation::kGeneral;
  displaced_ = passive || actuation || general.count;
  if (!displaced_) return Status::kOk;
  row_type_.assign(d->efc_type, d->efc_type + general.count);
  row_id_.assign(d->efc_id, d->efc_id + general.count);
  row_force_.assign(d->efc_force, d->efc_force + general.count);
  const size_t room = static_cast<size_t>(general.count) * (nv + 2);
  if (rows_plus_.size() < room) {
    rows_plus_.resize(room);
    rows_minus_.resize(room);
  }
  const Sink sink{fa_.data(), fq_.data(), fv_.data()};
  std::vector<double>& direction = force_;
  mju_zero(direction.data(), nv);
  const auto evaluate = [&](int j, double h, double* out, double* rows) {
    direction[j] = h;
    mju_copy(d->qpos, q_.data(), p.nq);
    mj_integratePos(m, d->qpos, direction.data(), 1);
    direction[j] = 0;
    mj_kinematics(m, d);
    mj_comPos(m, d);
    mj_tendon(m, d);
    mj_transmission(m, d);
    if (general.count && !sample_rows(m, d, rows)) return false;
    if (passive || actuation) {
      mj_fwdVelocity(m, d);
      if (actuation) mj_fwdActuation(m, d);
    }
    for (int i = 0; i < nv; i++) {
      out[i] = (passive ? d->qfrc_passive[i] : 0) + (actuation ? d->qfrc_actuator[i] : 0);
    }
    if (actuation) mju_copy(out + nv, d->act_dot, p.na);
    return true;
  };
  bool same = true;
  for (int j = 0; j < nv && same; j++) {
    same = evaluate(j, eps, plus_.data(), rows_plus_.data()) &&
           evaluate(j, -eps, minus_.data(), rows_minus_.data());
    if (!same) break;
    const double scale = 1 / (2 * eps);
    for (int i = 0; i < nv; i++) fq_[i * nv + j] -= (plus_[i] - minus_[i]) * scale;
    if (actuation) {
      for (int k = 0; k < p.na; k++) {
        rate_[k * p.columns + j] = (plus_[nv + k] - minus_[nv + k]) * scale;
      }
    }
    for (int i = 0; i < general.count; i++) {
      if (!general.general[i]) continue;
      double* up = &rows_plus_[i * (nv + 2)];
      const double* down = &rows_minus_[i * (nv + 2)];
      for (int k = 0; k < nv + 2; k++) up[k] = (up[k] - down[k]) * scale;
      constraints_.add_general(i, row_force_[i], j, up[0], up[1], up + 2, sink);
    }
  }
  mju_copy(d->qpos, q_.data(), p.nq);
  return same ? Status::kOk : Status::kRows;
}

Status Acceleration::solve(const Plan& p, const mjModel* m, mjData* d) {
  fit(p);
  const int nv = p.nv;
  mju_copy(q_.data(), d->qpos, p.nq);
  mju_copy(v_.data(), d->qvel, nv);
  trees_.resize(2 * m->ntree);
  bool solved = balanced(p, m, d);
  if (!solved && balanced_for_engine(m, d)) return Status::kEquations;
  Status status = assemble(p, m, d);
  for (int i = 0; !solved && status == Status::kOk && i < kPolishing; i++) {
    cholesky_solve(factor_.data(), residual_.data(), nv, 1);
    mju_subFrom(d->qacc, residual_.data(), nv);
    solved = balanced(p, m, d);
    status = assemble(p, m, d);
  }
  if (status != Status::kOk) return status;
  return solved ? Status::kOk : Status::kUnconverged;
}

Status Acceleration::linearize(const Plan& p, const mjModel* m, mjData* d, double eps) {
  const int nv = p.nv, n = p.columns;
  std::fill(x_.begin(), x_.end(), 0);
  std::fill(rate_.begin(), rate_.end(), 0);
  mju_copy(base_.data(), d->qfrc_actuator, nv);
  mju_copy(base_.data() + nv, d->act_dot, p.na);
  const Sink sink{fa_.data(), fq_.data(), fv_.data()};
  if (!constraints_.add_positions(m, d, rigid_, eps, sink)) return Status::kGeometry;
  Status status = controls(p, m, d, eps);
  if (p.velocity_gains) lengths(p, m, d, eps, true);
  if (p.actuation == Actuation::kLength) lengths(p, m, d, eps, false);
  if (p.passive == Passive::kAnalytic) {
    springs_and_dampers(p, m);
  } else {
    passive_velocities(p, m, d, eps);
  }
  row_velocities(m, d, eps);
  if (status == Status::kOk) status = geometry(p, m, d, eps);
  mju_copy(d->qfrc_actuator, base_.data(), nv);
  mju_copy(d->act_dot, base_.data() + nv, p.na);
  if (status != Status::kOk) return status;

  for (int i = 0; i < nv; i++) {
    for (int j = 0; j < nv; j++) {
      x_[i * n + j] = -fq_[i * nv + j];
      x_[i * n + nv + j] = -fv_[i * nv + j];
    }
  }
  cholesky_solve(factor_.data(), x_.data(), nv, n);
  for (int i = 0; i < nv * n; i++) {
    if (!std::isfinite(x_[i])) return Status::kDiverged;
  }
  return Status::kOk;
}

}  // namespace mbrl
