#include "constraints.h"

#include <algorithm>
#include <cmath>

#include "spatial.h"

namespace mbrl {

namespace {

int last_dof(const mjModel* m, int body) {
  while (body > 0 && m->body_dofnum[body] == 0) body = m->body_parentid[body];
  return body == 0 ? -1 : m->body_dofadr[body] + m->body_dofnum[body] - 1;
}

}  // namespace

void Constraints::update(const mjModel* m, mjData* d) {
  nv_ = static_cast<int>(m->nv);
  general_.count = 0;
  if (d->nefc == 0) {
    mju_zero(d->qfrc_constraint, nv_);
    return;
  }
  const size_t rows = d->nefc;
  if (jar_.size() < rows || jacobian_.size() < rows * nv_) {  // with room to grow
    jar_.resize(2 * rows);
    general_.general.resize(2 * rows);
    jacobian_.resize(2 * rows * nv_);
    hj_.resize(2 * rows * nv_);
  }
  mj_mulJacVec(m, d, jar_.data(), d->qacc);
  for (int i = 0; i < d->nefc; i++) jar_[i] -= d->efc_aref[i];
  mj_constraintUpdate(m, d, jar_.data(), nullptr, 1);
  classify(m, d);
}

void Constraints::classify(const mjModel* m, const mjData* d) {
  bool found = false;
  const int rows = d->ne + d->nf + d->nl;
  for (int i = 0; i < rows; i++) {
    bool plain = d->efc_type[i] == mjCNSTR_FRICTION_DOF;
    if (d->efc_type[i] == mjCNSTR_LIMIT_JOINT) {
      plain = m->jnt_type[d->efc_id[i]] == mjJNT_HINGE || m->jnt_type[d->efc_id[i]] == mjJNT_SLIDE;
    }
    general_.general[i] = !plain;
    found |= !plain;
  }
  general_.count = found ? rows : 0;
}

void Constraints::load_rows(const mjModel* m, const mjData* d) {
  const int nefc = d->nefc;
  if (mj_isSparse(m)) {
    mju_sparse2dense(jacobian_.data(), d->efc_J, nefc, nv_, d->efc_J_rownnz, d->efc_J_rowadr,
                     d->efc_J_colind);
  } else {
    mju_copy(jacobian_.data(), d->efc_J, nefc * nv_);
  }
  for (int i = 0; i < nefc; i++) {
    double* hj = &hj_[i * nv_];
    const double* J = &jacobian_[i * nv_];
    if (d->efc_state[i] == mjCNSTRSTATE_CONE) {
      const mjContact& c = d->contact[d->efc_id[i]];
      const int dim = c.dim, k = i - c.efc_address;
      const double* first = &jacobian_[c.efc_address * nv_];
      for (int j = 0; j < nv_; j++) {
        double sum = 0;
        for (int r = 0; r < dim; r++) sum += c.H[k * dim + r] * first[r * nv_ + j];
        hj[j] = sum;
      }
    } else {
      const double D = d->efc_state[i] == mjCNSTRSTATE_QUADRATIC ? d->efc_D[i] : 0;
      for (int j = 0; j < nv_; j++) hj[j] = D * J[j];
    }
  }
}

void Constraints::add_metric(const mjModel* m, const mjData* d, const Sink& sink) {
  if (d->nefc == 0) return;
  load_rows(m, d);
  for (int i = 0; i < d->nefc; i++) {
    const int state = d->efc_state[i];
    if (state != mjCNSTRSTATE_QUADRATIC && state != mjCNSTRSTATE_CONE) continue;
    const double *J = &jacobian_[i * nv_], *hj = &hj_[i * nv_];
    const double B = d->efc_KBIP[4 * i + 1];
    for (int r = 0; r < nv_; r++) {
      const double x = hj[r];
      if (x == 0) continue;
      double *fa = sink.fa + r * nv_, *fv = sink.fv + r * nv_;
      for (int c = 0; c < nv_; c++) {
        const double p = x * J[c];
        fa[c] += p;
        fv[c] += B * p;
      }
    }
  }
}

void Constraints::accelerations(const mjModel* m, const mjData* d) {
  rel_.resize(6 * m->nbody);
  before_.resize(6 * m->nv);
  mju_zero(rel_.data(), 6);
  for (int body = 1; body < m->nbody; body++) {
    double* A = &rel_[6 * body];
    mju_copy(A, &rel_[6 * m->body_parentid[body]], 6);
    const int end = m->body_dofadr[body] + m->body_dofnum[body];
    for (int j = m->body_dofadr[body]; j >= 0 && j < end;) {
      const Tied group = tied(m, j);
      for (int l = group.begin; l < group.end; l++) mju_copy(&before_[6 * l], A, 6);
      for (int l = group.begin; l < group.end; l++) {
        mju_addToScl(A, d->cdof + 6 * l, d->qacc[l], 6);
      }
      j = group.end;
    }
  }
}

// Dofs that move exactly one of the bodies: side -1 the first, +1 the second. What moves both, side
// 0, turns the contact like a rigid body, and matters only through a frame that is completed from
// world axes: its tangents twist about the normal.
void Constraints::support(const mjModel* m, int body1, int body2, bool twisting) {
  dofs_.clear();
  side_.clear();
  int i = last_dof(m, body1), j = last_dof(m, body2);
  while (i != j) {
    const bool second = j > i;
    dofs_.push_back(second ? j : i);
    side_.push_back(second ? 1 : -1);
    (second ? j : i) = m->dof_parentid[second ? j : i];
  }
  apart_ = dofs_.size();
  for (; twisting && i >= 0; i = m->dof_parentid[i]) {
    dofs_.push_back(i);
    side_.push_back(0);
  }
}

namespace {

// Whether the force of a contact depends on where the tangents of its frame point.
bool directed(const mjContact& c, int type) {
  if (c.dim == 1) return false;
  if (type == mjCNSTR_CONTACT_PYRAMIDAL) return true;
  return c.friction[0] != c.friction[1] || (c.dim == 6 && c.friction[3] != c.friction[4]);
}

}  // namespace

void Constraints::add_contact(const mjModel* m, const mjData* d, const Rigid& rigid, int contact,
                              int slot, const Sink& sink) {
  const mjContact& c = d->contact[contact];
  const int row = c.efc_address, dim = c.dim, type = d->efc_type[row];
  const bool pyramid = type == mjCNSTR_CONTACT_PYRAMIDAL;
  const int rows = pyramid ? 2 * (dim - 1) : dim;
  const int count = static_cast<int>(geometry_.size() / std::max<size_t>(1, dofs_.size()));
  bool active = false;
  for (int i = 0; i < rows; i++) active |= d->efc_state[row + i] != mjCNSTRSTATE_SATISFIED;
  if (!active) return;

  const int body1 = m->geom_bodyid[c.geom[0]], body2 = m->geom_bodyid[c.geom[1]];
  const double* origin[2] = {d->subtree_com + 3 * m->body_rootid[body1],
                             d->subtree_com + 3 * m->body_rootid[body2]};
  double arm[2][3], A[2][3], V[2][3], dA[3], dV[3], turnA[3], turnV[3];
  const double* bodyA[2] = {&rel_[6 * body1], &rel_[6 * body2]};
  const double* bodyV[2] = {rigid.velocity(body1), rigid.velocity(body2)};
  for (int side = 0; side < 2; side++) {
    for (int i = 0; i < 3; i++) arm[side][i] = c.pos[i] - origin[side][i];
    point_motion(A[side], bodyA[side], arm[side]);
    point_motion(V[side], bodyV[side], arm[side]);
  }
  for (int i = 0; i < 3; i++) {
    dA[i] = A[1][i] - A[0][i];
    dV[i] = V[1][i] - V[0][i];
    turnA[i] = bodyA[1][i] - bodyA[0][i];
    turnV[i] = bodyV[1][i] - bodyV[0][i];
  }

  // The force in the frame of the contact, and in the world.
  double force[6] = {0, 0, 0, 0, 0, 0}, push[3] = {0, 0, 0}, twist[3] = {0, 0, 0};
  const double* f = d->efc_force + row;
  if (pyramid) {
    for (int k = 0; k < dim - 1; k++) {
      force[0] += f[2 * k] + f[2 * k + 1];
      force[k + 1] = c.friction[k] * (f[2 * k] - f[2 * k + 1]);
    }
  } else {
    for (int k = 0; k < dim; k++) force[k] = f[k];
  }
  for (int k = 0; k < dim; k++) {
    double* w = k < 3 ? push : twist;
    for (int i = 0; i < 3; i++) w[i] += force[k] * c.frame[3 * (k % 3) + i];
  }
  double wrench[2][6];
  for (int side = 0; side < 2; side++) {
    cross3(wrench[side], arm[side], push);
    for (int i = 0; i < 3; i++) {
      wrench[side][i] += twist[i];
      wrench[side][3 + i] = push[i];
    }
  }

  const double *kbip = d->efc_KBIP + 4 * row, impedance = kbip[2];
  const double r = d->efc_pos[row] - d->efc_margin[row];
  const double stiffness = kbip[0] * (impedance + kbip[3] * r);
  const double softening = kbip[3] / (impedance * (1 - impedance));

  for (size_t s = 0; s < dofs_.size(); s++) {
    const int j = dofs_[s], side = side_[s] > 0;
    const bool both = side_[s] == 0;
    const double sign = both ? 1 : side_[s], *S = d->cdof + 6 * j;
    const Geometry& g = geometry_[s * count + slot];

    // Relative motion in the frame: how it changes where it stands still in the body, and
    // because point and frame wander.
    double slopeA[6], slopeV[6];
    {
      double x[6], y[6], px[3], py[3], tx[3], ty[3], fromA[6], fromV[6];
      for (int i = 0; i < 6; i++) {
        fromA[i] = both ? bodyA[1][i] - bodyA[0][i] : bodyA[side][i] - before_[6 * j + i];
        fromV[i] = both ? bodyV[1][i] - bodyV[0][i]
                        : bodyV[side][i] - rigid.velocity_before(j)[i];
      }
      cross_motion(x, S, fromA);
      cross_motion(y, S, fromV);
      point_motion(px, x, arm[side]);
      point_motion(py, y, arm[side]);
      cross3(tx, turnA, g.point);
      cross3(ty, turnV, g.point);
      for (int i = 0; i < 3; i++) {
        px[i] = sign * px[i] + tx[i];
        py[i] = sign * py[i] + ty[i];
        x[i] *= sign;
        y[i] *= sign;
      }
      for (int k = 0; k < dim; k++) {
        const double *axis = c.frame + 3 * (k % 3), *moved = g.frame + 3 * (k % 3);
        slopeA[k] = k < 3 ? dot3(moved, dA) + dot3(axis, px) : dot3(moved, turnA) + dot3(axis, x);
        slopeV[k] = k < 3 ? dot3(moved, dV) + dot3(axis, py) : dot3(moved, turnV) + dot3(axis, y);
      }
    }
    const double log_weight = softening * g.distance;
    for (int i = 0; i < rows; i++) {
      const double B = d->efc_KBIP[4 * (row + i) + 1];
      double slope = 0;
      if (pyramid) {
        const double mu = (i % 2 ? -1 : 1) * c.friction[i / 2];
        const int k = i / 2 + 1;
        slope = slopeA[0] + B * slopeV[0] + mu * (slopeA[k] + B * slopeV[k]);
        slope += stiffness * g.distance;
      } else {
        slope = slopeA[i] + B * slopeV[i] + (i == 0 ? stiffness * g.distance : 0);
      }
      const double weight = d->efc_force[row + i] * log_weight;
      const double *hj = &hj_[(row + i) * nv_], *J = &jacobian_[(row + i) * nv_];
      for (size_t t = 0; t < apart_; t++) {
        const int k = dofs_[t];
        sink.fq[k * nv_ + j] += hj[k] * slope - J[k] * weight;
      }
    }

    // The same force, through a point and frame that wander.
    double dpush[3] = {0, 0, 0}, dtwist[3] = {0, 0, 0};
    for (int k = 0; k < dim; k++) {
      double* w = k < 3 ? dpush : dtwist;
      for (int i = 0; i < 3; i++) w[i] += force[k] * g.frame[3 * (k % 3) + i];
    }
    double moment[3], dwrench[2][6];
    cross3(moment, g.point, push);
    for (int e = 0; e < 2; e++) {
      cross3(dwrench[e], arm[e], dpush);
      for (int i = 0; i < 3; i++) {
        dwrench[e][i] += moment[i] + dtwist[i];
        dwrench[e][3 + i] = dpush[i];
      }
    }
    const int begin = tied(m, j).begin;
    for (size_t t = 0; t < apart_; t++) {
      const int i = dofs_[t], other = side_[t] > 0;
      const double* Si = d->cdof + 6 * i;
      double change = dot6(Si, dwrench[other]);
      if (both || (other == side && i >= begin)) {
        double x[6];
        cross_motion(x, S, Si);
        change += dot6(x, wrench[other]);
      }
      sink.fq[i * nv_ + j] -= side_[t] * change;
    }
  }
}

bool Constraints::add_positions(const mjModel* m, mjData* d, const Rigid& rigid, double eps,
                                const Sink& sink) {
  if (d->nefc == 0) return true;
  for (int i = d->ne; i < d->ne + d->nf + d->nl; i++) {
    if (d->efc_type[i] != mjCNSTR_LIMIT_JOINT || (general_.count && general_.general[i])) continue;
    if (d->efc_state[i] == mjCNSTRSTATE_SATISFIED) continue;
    const int j = m->jnt_dofadr[d->efc_id[i]];
    const double *kbip = d->efc_KBIP + 4 * i, J = jacobian_[i * nv_ + j];
    const double r = d->efc_pos[i] - d->efc_margin[i];
    const double slope = kbip[0] * (kbip[2] + kbip[3] * r) * J;
    const double weight = d->efc_force[i] * kbip[3] / (kbip[2] * (1 - kbip[2])) * J;
    sink.fq[j * nv_ + j] += hj_[i * nv_ + j] * slope - J * weight;
  }
  bool begun = false;
  for (int first = 0; first < d->ncon;) {
    const mjContact& c = d->contact[first];
    int last = first;
    bool included = false, active = false, twisting = false;
    for (; last < d->ncon && d->contact[last].geom[0] == c.geom[0] &&
           d->contact[last].geom[1] == c.geom[1];
         last++) {
      const int row = d->contact[last].efc_address;
      if (row < 0) continue;
      included = true;
      twisting |= directed(d->contact[last], d->efc_type[row]);
      const int end = row + (d->efc_type[row] == mjCNSTR_CONTACT_PYRAMIDAL
                                 ? 2 * (d->contact[last].dim - 1)
                                 : d->contact[last].dim);
      for (int i = row; i < end; i++) active |= d->efc_state[i] != mjCNSTRSTATE_SATISFIED;
    }
    if (included && active) {
      if (!begun) accelerations(m, d);
      begun = true;
      support(m, m->geom_bodyid[c.geom[0]], m->geom_bodyid[c.geom[1]], twisting);
      if (!pair_geometry(m, d, first, last, eps)) return false;
      for (int k = first; k < last; k++) {
        if (d->contact[k].efc_address >= 0) add_contact(m, d, rigid, k, k - first, sink);
      }
    }
    first = last;
  }
  return true;
}

void Constraints::add_general(int row, double force, int j, double residual_slope,
                              double log_weight_slope, const double* jacobian_slope,
                              const Sink& sink) const {
  const double *hj = &hj_[row * nv_], *J = &jacobian_[row * nv_];
  for (int k = 0; k < nv_; k++) {
    sink.fq[k * nv_ + j] +=
        hj[k] * residual_slope - force * (J[k] * log_weight_slope + jacobian_slope[k]);
  }
}

void Constraints::add_general_velocity(int row, double damping, int j, double reference_slope,
                                       const Sink& sink) const {
  const double *hj = &hj_[row * nv_], *J = &jacobian_[row * nv_];
  const double slope = -reference_slope - damping * J[j];
  for (int k = 0; k < nv_; k++) sink.fv[k * nv_ + j] += hj[k] * slope;
}

}  // namespace mbrl
