#include "rigid.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "spatial.h"

namespace mbrl {

namespace {

void add_cross(double* m, const double* v, double scale) {  // m (3, 3) += scale [v x]
  m[1] -= scale * v[2];
  m[2] += scale * v[1];
  m[3] += scale * v[2];
  m[5] -= scale * v[0];
  m[6] -= scale * v[1];
  m[7] += scale * v[0];
}

// m (3, 3) += scale [a x] [b x]
void add_cross_cross(double* m, const double* a, const double* b, double scale) {
  const double d = dot3(a, b);
  for (int i = 0; i < 3; i++) {
    for (int k = 0; k < 3; k++) m[3 * i + k] += scale * (b[i] * a[k] - (i == k ? d : 0));
  }
}

}  // namespace

Tied tied(const mjModel* m, int dof) {
  const int joint = m->dof_jntid[dof], first = m->jnt_dofadr[joint];
  if (m->jnt_type[joint] == mjJNT_BALL) return {first, first + 3};
  if (m->jnt_type[joint] == mjJNT_FREE && dof >= first + 3) return {first + 3, first + 6};
  return {dof, dof + 1};
}

void Rigid::fit(const mjModel* m) {
  const size_t nb = m->nbody, nv = m->nv;
  if (v_.size() == 6 * nb && tau_.size() == nv) return;
  for (auto* x : {&v_, &a_, &f_}) x->assign(6 * nb, 0);
  inertia_.assign(10 * nb, 0);
  brr_.assign(9 * nb, 0);
  momentum_.assign(3 * nb, 0);
  drag_.assign(36 * nb, 0);
  for (auto* x : {&vp_, &w_, &z_, &u_, &y_, &e_, &P_, &Q_}) x->assign(6 * nv, 0);
  tau_.assign(nv, 0);
  for (auto* x : {&dq_, &dv_, &M_}) x->assign(nv * nv, 0);
}

void Rigid::forward(const mjModel* m, const mjData* d, const double* qvel, const double* qacc,
                    bool gravity) {
  double* a0 = a_.data();
  mju_zero(a0, 6);
  mju_zero(v_.data(), 6);
  if (gravity && !(m->opt.disableflags & mjDSBL_GRAVITY)) {
    for (int i = 0; i < 3; i++) a0[3 + i] = -m->opt.gravity[i];
  }
  for (int body = 1; body < m->nbody; body++) {
    const int parent = m->body_parentid[body];
    double *v = &v_[6 * body], *a = &a_[6 * body];
    std::memcpy(v, &v_[6 * parent], 6 * sizeof(double));
    std::memcpy(a, &a_[6 * parent], 6 * sizeof(double));
    const int end = m->body_dofadr[body] + m->body_dofnum[body];
    for (int j = m->body_dofadr[body]; j >= 0 && j < end;) {
      const Tied group = tied(m, j);
      double vp[6], ap[6];
      std::memcpy(vp, v, sizeof vp);
      std::memcpy(ap, a, sizeof ap);
      for (int l = group.begin; l < group.end; l++) {
        const double* S = d->cdof + 6 * l;
        double rate[6], s[6], t[6];
        cross_motion(rate, vp, S);
        cross_motion(s, S, ap);
        cross_motion(t, rate, vp);
        for (int i = 0; i < 6; i++) {
          vp_[6 * l + i] = vp[i];
          w_[6 * l + i] = -rate[i];
          z_[6 * l + i] = s[i] + t[i];
          u_[6 * l + i] = rate[i];
          v[i] += S[i] * qvel[l];
          a[i] += rate[i] * qvel[l] + S[i] * qacc[l];
        }
      }
      for (int l = group.begin; l < group.end; l++) {
        double after[6];
        cross_motion(after, v, d->cdof + 6 * l);
        for (int i = 0; i < 6; i++) u_[6 * l + i] += after[i];
      }
      j = group.end;
    }
  }
}

void Rigid::add_fluid(const mjModel* m, const mjData* d, int body) {
  const double mass = m->body_mass[body];
  if (mass < mjMINVAL) return;
  const double* I = m->body_inertia + 3 * body;
  double box[3];
  for (int i = 0; i < 3; i++) {
    const double s = I[(i + 1) % 3] + I[(i + 2) % 3] - I[i];
    box[i] = std::sqrt(std::max(mjMINVAL, s) / mass * 6.0);
  }
  const double* com = d->subtree_com + 3 * m->body_rootid[body];
  const double *R = d->ximat + 9 * body, *v = &v_[6 * body];
  double p[3];
  for (int i = 0; i < 3; i++) p[i] = d->xipos[3 * body + i] - com[i];
  const double density = m->opt.density, viscosity = m->opt.viscosity;
  const double diameter = (box[0] + box[1] + box[2]) / 3;
  double *D = &drag_[36 * body], *f = &f_[6 * body];
  for (int i = 0; i < 6; i++) {
    const int k = i % 3, k1 = (k + 1) % 3, k2 = (k + 2) % 3;
    const double axis[3] = {R[k], R[3 + k], R[6 + k]};
    double x[6] = {0, 0, 0, 0, 0, 0};
    if (i < 3) {
      std::memcpy(x, axis, sizeof axis);
    } else {
      cross3(x, p, axis);
      std::memcpy(x + 3, axis, sizeof axis);
    }
    double linear = 0, quadratic = 0;
    if (i < 3) {
      linear = mjPI * diameter * diameter * diameter * viscosity;
      quadratic = density * box[k] * (std::pow(box[k1], 4) + std::pow(box[k2], 4)) / 64;
    } else {
      linear = 3 * mjPI * diameter * viscosity;
      quadratic = 0.5 * density * box[k1] * box[k2];
    }
    const double speed = dot6(x, v);
    const double force = -(linear + quadratic * std::fabs(speed)) * speed;
    const double slope = -(linear + 2 * quadratic * std::fabs(speed));
    for (int r = 0; r < 6; r++) {
      f[r] -= force * x[r];
      for (int c = 0; c < 6; c++) D[6 * r + c] += slope * x[r] * x[c];
    }
  }
}

void Rigid::composites(const mjModel* m, const mjData* d, bool fluid) {
  const int nb = static_cast<int>(m->nbody);
  if (fluid) std::fill(drag_.begin(), drag_.end(), 0);
  for (int body = 1; body < nb; body++) {
    const double *v = &v_[6 * body], *a = &a_[6 * body], *I = d->cinert + 10 * body;
    double h[6], t[6], *f = &f_[6 * body], *B = &brr_[9 * body];
    inertia_times(h, I, v);
    inertia_times(f, I, a);
    cross_force(t, v, h);
    for (int i = 0; i < 6; i++) f[i] += t[i];
    std::memcpy(&inertia_[10 * body], I, 10 * sizeof(double));
    std::memcpy(&momentum_[3 * body], h + 3, 3 * sizeof(double));
    // The rotational block of B; its only other block is -2 [momentum x].
    const double J[9] = {I[0], I[3], I[4], I[3], I[1], I[5], I[4], I[5], I[2]};
    for (int i = 0; i < 9; i++) B[i] = 0;
    for (int c = 0; c < 3; c++) {
      const double column[3] = {J[c], J[3 + c], J[6 + c]};  // J is symmetric
      double x[3];
      cross3(x, v, column);  // [omega x] J, and its transpose is -J [omega x]
      for (int r = 0; r < 3; r++) {
        B[3 * r + c] += x[r];
        B[3 * c + r] += x[r];
      }
    }
    add_cross(B, h, -1);
    add_cross_cross(B, v + 3, I + 6, -1);
    add_cross_cross(B, I + 6, v + 3, -1);
    if (fluid) add_fluid(m, d, body);
  }
  for (int body = nb - 1; body > 0; body--) {
    const int parent = m->body_parentid[body];
    if (parent == 0) continue;
    for (int i = 0; i < 6; i++) f_[6 * parent + i] += f_[6 * body + i];
    for (int i = 0; i < 10; i++) inertia_[10 * parent + i] += inertia_[10 * body + i];
    for (int i = 0; i < 9; i++) brr_[9 * parent + i] += brr_[9 * body + i];
    for (int i = 0; i < 3; i++) momentum_[3 * parent + i] += momentum_[3 * body + i];
    if (fluid) {
      for (int i = 0; i < 36; i++) drag_[36 * parent + i] += drag_[36 * body + i];
    }
  }
}

// r = B w of the composite body, or B' w; drag belongs to B.
void Rigid::operators(double* r, int body, const double* w, bool transposed, bool fluid) const {
  const double *B = &brr_[9 * body], *h = &momentum_[3 * body];
  double t[3];
  if (transposed) {
    cross3(t, w + 3, h);
    for (int i = 0; i < 3; i++) {
      r[i] = B[i] * w[0] + B[3 + i] * w[1] + B[6 + i] * w[2] - 2 * t[i];
      r[3 + i] = 0;
    }
  } else {
    cross3(t, h, w);
    for (int i = 0; i < 3; i++) {
      r[i] = dot3(B + 3 * i, w);
      r[3 + i] = -2 * t[i];
    }
  }
  if (fluid) {
    for (int i = 0; i < 6; i++) r[i] -= dot6(&drag_[36 * body + 6 * i], w);
  }
}

void Rigid::compute(const mjModel* m, const mjData* d, const double* qvel, const double* qacc,
                    bool gravity, bool fluid) {
  fit(m);
  forward(m, d, qvel, qacc, gravity);
  composites(m, d, fluid);
  const int nv = static_cast<int>(m->nv);
  for (auto* x : {&dq_, &dv_, &M_}) std::fill(x->begin(), x->end(), 0);
  for (int k = 0; k < nv; k++) {
    const int body = m->dof_bodyid[k];
    const double *S = d->cdof + 6 * k, *F = &f_[6 * body], *I = &inertia_[10 * body];
    double *y = &y_[6 * k], *e = &e_[6 * k], *P = &P_[6 * k], *Q = &Q_[6 * k], s[6], t[6];
    cross_force(y, S, F);
    inertia_times(s, I, &z_[6 * k]);
    operators(t, body, &w_[6 * k], false, fluid);
    for (int i = 0; i < 6; i++) y[i] -= s[i] + t[i];
    inertia_times(e, I, &u_[6 * k]);
    operators(t, body, S, false, fluid);
    for (int i = 0; i < 6; i++) e[i] += t[i];
    inertia_times(P, I, S);
    operators(Q, body, S, true, fluid);
    tau_[k] = dot6(S, F);
    dq_[k * nv + k] = dot6(S, y);
    dv_[k * nv + k] = dot6(S, e);
    M_[k * nv + k] = dot6(S, P);
    const int begin = tied(m, k).begin;
    for (int i = m->dof_parentid[k]; i >= 0; i = m->dof_parentid[i]) {
      const double* Si = d->cdof + 6 * i;
      const double *z = &z_[6 * i], *w = &w_[6 * i], *u = &u_[6 * i];
      dq_[k * nv + i] = -dot6(P, z) - dot6(Q, w);
      dv_[k * nv + i] = dot6(P, u) + dot6(Q, Si);
      if (i < begin) {
        dq_[i * nv + k] = dot6(Si, y);
      } else {  // within a ball every axis turns with every dof
        dq_[i * nv + k] = -dot6(&P_[6 * i], &z_[6 * k]) - dot6(&Q_[6 * i], &w_[6 * k]);
      }
      dv_[i * nv + k] = dot6(Si, e);
      M_[i * nv + k] = M_[k * nv + i] = dot6(Si, P);
    }
  }
}

}  // namespace mbrl
