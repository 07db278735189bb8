#include "sensing.h"

#include <algorithm>
#include <utility>

namespace mbrl {

namespace {

bool is_axis(int kind) { return kind >= mjSENS_FRAMEXAXIS && kind <= mjSENS_FRAMEZAXIS; }

bool of_velocity(int kind) {
  return kind == mjSENS_FRAMELINVEL || kind == mjSENS_FRAMEANGVEL || kind == mjSENS_SUBTREELINVEL;
}

bool of_velocity(const mjModel* m, const Probe& p) {
  if (p.kind != kSensor) return of_velocity(p.kind);
  // MuJoCo evaluates the kinetic energy among the sensors of position.
  return m->sensor_needstage[p.id] == mjSTAGE_VEL || m->sensor_type[p.id] == mjSENS_E_KINETIC;
}

// Whether a sensor of position or velocity reads more than bodies, tendons and transmissions.
bool beyond_kinematics(int type) {
  switch (type) {
    case mjSENS_VELOCIMETER:
    case mjSENS_GYRO:
    case mjSENS_MAGNETOMETER:
    case mjSENS_RANGEFINDER:
    case mjSENS_CAMPROJECTION:
    case mjSENS_JOINTPOS:
    case mjSENS_JOINTVEL:
    case mjSENS_TENDONPOS:
    case mjSENS_ACTUATORPOS:
    case mjSENS_BALLQUAT:
    case mjSENS_BALLANGVEL:
    case mjSENS_FRAMEPOS:
    case mjSENS_FRAMEQUAT:
    case mjSENS_FRAMEXAXIS:
    case mjSENS_FRAMEYAXIS:
    case mjSENS_FRAMEZAXIS:
    case mjSENS_FRAMELINVEL:
    case mjSENS_FRAMEANGVEL:
    case mjSENS_SUBTREECOM:
    case mjSENS_SUBTREELINVEL:
    case mjSENS_SUBTREEANGMOM:
    case mjSENS_INSIDESITE:
    case mjSENS_GEOMDIST:
    case mjSENS_GEOMNORMAL:
    case mjSENS_GEOMFROMTO:
    case mjSENS_CLOCK:
      return false;
    default:
      return true;
  }
}

struct Frame {
  int body;
  const double *position, *rotation;
};

Frame frame(const mjModel* m, const mjData* d, const Probe& p) {
  switch (p.type) {
    case mjOBJ_BODY:
      return {p.id, d->xipos + 3 * p.id, d->ximat + 9 * p.id};
    case mjOBJ_GEOM:
      return {m->geom_bodyid[p.id], d->geom_xpos + 3 * p.id, d->geom_xmat + 9 * p.id};
    case mjOBJ_SITE:
      return {m->site_bodyid[p.id], d->site_xpos + 3 * p.id, d->site_xmat + 9 * p.id};
    default:
      return {p.id, d->xpos + 3 * p.id, d->xmat + 9 * p.id};
  }
}

// Column j of a 3-by-nv matrix.
void column(double out[3], const double* matrix, int nv, int j) {
  for (int i = 0; i < 3; i++) out[i] = matrix[i * nv + j];
}

// Add J [e_j, v] to the columns of the rotations of balls and free bodies: moving along e_j and
// along v does not commute there, so that d(Jv)/dq_j is not the rate of column j of J.
void add_brackets(const mjModel* m, const double* qvel, const double* jacobian, double* rates) {
  const int nv = static_cast<int>(m->nv);
  for (int k = 0; k < m->njnt; k++) {
    const int type = m->jnt_type[k];
    if (type != mjJNT_BALL && type != mjJNT_FREE) continue;
    const int a = m->jnt_dofadr[k] + (type == mjJNT_FREE ? 3 : 0);
    const double* w = qvel + a;
    for (int i = 0; i < 3; i++) {
      const double* row = jacobian + i * nv + a;
      double* rate = rates + i * nv + a;  // e_j x w
      rate[0] += row[2] * w[1] - row[1] * w[2];
      rate[1] += row[0] * w[2] - row[2] * w[0];
      rate[2] += row[1] * w[0] - row[0] * w[1];
    }
  }
}

bool descends(const mjModel* m, int body, int root) {
  while (body > root) body = m->body_parentid[body];
  return body == root;
}

// Rate of the Jacobian of a subtree's center of mass.
void subtree_rates(const mjModel* m, const mjData* d, int root, double* one, double* rates) {
  const int nv = static_cast<int>(m->nv);
  mju_zero(rates, 3 * nv);
  for (int b = root; b < m->nbody; b++) {
    if (m->body_mass[b] == 0 || !descends(m, b, root)) continue;
    mj_jacDot(m, d, one, nullptr, d->xipos + 3 * b, b);
    mju_addToScl(rates, one, m->body_mass[b] / m->body_subtreemass[root], 3 * nv);
  }
}

}  // namespace

Sensing::Sensing(const mjModel* m, std::vector<Probe> probes) : probes_(std::move(probes)) {
  for (const Probe& p : probes_) {
    start_.push_back(size_);
    if (p.kind == kSensor) {
      sensors_ = true;
      sensor_velocities_ |= of_velocity(m, p);
      kinetic_ |= m->sensor_type[p.id] == mjSENS_E_KINETIC;
      size_ += m->sensor_dim[p.id];
    } else {
      velocities_ |= of_velocity(m, p);
      subtrees_ |= p.kind == mjSENS_SUBTREELINVEL;
      size_ += 3;
    }
  }
  // MuJoCo evaluates all sensors of a stage at once.
  for (int i = 0; i < m->nsensor && sensors_; i++) {
    constraints_ |= beyond_kinematics(m->sensor_type[i]) && m->sensor_needstage[i] < mjSTAGE_ACC;
  }
}

void Sensing::position(const mjModel* m, mjData* d) const {
  d->flg_energypos = d->flg_energyvel = d->flg_subtreevel = 0;
  if (!sensors_) {
    mj_kinematics(m, d);
    mj_comPos(m, d);
    return;
  }
  if (constraints_) {
    mj_fwdPosition(m, d);
  } else {
    mj_fwdKinematics(m, d);
    mj_transmission(m, d);
  }
  mj_sensorPos(m, d);
}

void Sensing::velocity(const mjModel* m, mjData* d) const {
  d->flg_subtreevel = 0;
  if (sensor_velocities_) {
    if (constraints_) {
      mj_fwdVelocity(m, d);
    } else {
      mj_comVel(m, d);
    }
    mj_sensorVel(m, d);
  } else if (velocities_) {
    mj_comVel(m, d);
  }
  if (subtrees_) mj_subtreeVel(m, d);
}

void Sensing::read(const mjModel* m, const mjData* d, double* values) const {
  for (size_t k = 0; k < probes_.size(); k++) {
    const Probe& p = probes_[k];
    double* to = values + start_[k];
    double both[6];
    if (p.kind == kSensor) {
      mju_copy(to, d->sensordata + m->sensor_adr[p.id], m->sensor_dim[p.id]);
    } else if (p.kind == mjSENS_FRAMEPOS) {
      mju_copy3(to, frame(m, d, p).position);
    } else if (is_axis(p.kind)) {
      const double* rotation = frame(m, d, p).rotation + (p.kind - mjSENS_FRAMEXAXIS);
      for (int i = 0; i < 3; i++) to[i] = rotation[3 * i];
    } else if (p.kind == mjSENS_SUBTREECOM) {
      mju_copy3(to, d->subtree_com + 3 * p.id);
    } else if (p.kind == mjSENS_SUBTREELINVEL) {
      mju_copy3(to, d->subtree_linvel + 3 * p.id);
    } else {
      mj_objectVelocity(m, d, p.type, p.id, both, 0);
      mju_copy3(to, p.kind == mjSENS_FRAMEANGVEL ? both : both + 3);
    }
  }
}

void Sensing::evaluate(const mjModel* m, mjData* d, double* values) const {
  position(m, d);
  velocity(m, d);
  read(m, d, values);
}

void Sensing::differentiate(const mjModel* m, mjData* d, double eps, double* values,
                            double* jacobian) const {
  const int ndx = static_cast<int>(2 * m->nv + m->na);
  evaluate(m, d, values);
  mju_zero(jacobian, size_ * ndx);
  closed_form(m, d, jacobian);
  if (sensors_) differences(m, d, eps, jacobian);
}

void Sensing::closed_form(const mjModel* m, mjData* d, double* jacobian) const {
  static thread_local std::vector<double> buffer;
  const int nv = static_cast<int>(m->nv), ndx = static_cast<int>(2 * nv + m->na);
  buffer.resize(static_cast<size_t>(12) * nv);
  double *shift = buffer.data(), *turn = shift + 3 * nv, *rates = turn + 3 * nv,
         *spare = rates + 3 * nv;
  for (size_t k = 0; k < probes_.size(); k++) {
    const Probe& p = probes_[k];
    if (p.kind == kSensor) continue;
    double *by_position = jacobian + start_[k] * ndx, *by_velocity = by_position + nv;
    const auto put = [&](double* to, const double* matrix) {
      for (int i = 0; i < 3; i++) mju_copy(to + i * ndx, matrix + i * nv, nv);
    };
    if (p.kind == mjSENS_SUBTREECOM || p.kind == mjSENS_SUBTREELINVEL) {
      mj_jacSubtreeCom(m, d, shift, p.id);
      if (p.kind == mjSENS_SUBTREECOM) {
        put(by_position, shift);
        continue;
      }
      subtree_rates(m, d, p.id, spare, rates);
      add_brackets(m, d->qvel, shift, rates);
      put(by_position, rates);
      put(by_velocity, shift);
      continue;
    }
    const Frame f = frame(m, d, p);
    mj_jac(m, d, shift, turn, f.position, f.body);
    if (p.kind == mjSENS_FRAMEPOS) {
      put(by_position, shift);
    } else if (is_axis(p.kind)) {
      double axis[3], w[3], slope[3];
      for (int i = 0; i < 3; i++) axis[i] = f.rotation[3 * i + p.kind - mjSENS_FRAMEXAXIS];
      for (int j = 0; j < nv; j++) {
        column(w, turn, nv, j);
        mju_cross(slope, w, axis);
        for (int i = 0; i < 3; i++) by_position[i * ndx + j] = slope[i];
      }
    } else if (p.kind == mjSENS_FRAMELINVEL) {
      mj_jacDot(m, d, rates, nullptr, f.position, f.body);
      add_brackets(m, d->qvel, shift, rates);
      put(by_position, rates);
      put(by_velocity, shift);
    } else {
      mj_jacDot(m, d, nullptr, rates, f.position, f.body);
      add_brackets(m, d->qvel, turn, rates);
      double w[3], spin[3], twist[3];
      mju_mulMatVec(spin, turn, d->qvel, 3, nv);
      for (int j = 0; j < nv; j++) {
        column(w, turn, nv, j);
        mju_cross(twist, spin, w);
        for (int i = 0; i < 3; i++) rates[i * nv + j] -= twist[i];
      }
      put(by_position, rates);
      put(by_velocity, turn);
    }
  }
}

void Sensing::differences(const mjModel* m, mjData* d, double eps, double* jacobian) const {
  static thread_local std::vector<double> buffer;
  const int nq = static_cast<int>(m->nq), nv = static_cast<int>(m->nv),
            ns = static_cast<int>(m->nsensordata), ndx = static_cast<int>(2 * nv + m->na);
  buffer.resize(nq + nv + 2 * static_cast<size_t>(ns));
  double *qpos = buffer.data(), *direction = qpos + nq, *plus = direction + nv, *minus = plus + ns;
  mju_copy(qpos, d->qpos, nq);
  const auto put = [&](bool all, int j, double span) {
    for (size_t k = 0; k < probes_.size(); k++) {
      const Probe& p = probes_[k];
      if (p.kind != kSensor || !(all || of_velocity(m, p))) continue;
      const int from = m->sensor_adr[p.id];
      for (int i = 0; i < m->sensor_dim[p.id]; i++) {
        jacobian[(start_[k] + i) * ndx + j] = (plus[from + i] - minus[from + i]) / span;
      }
    }
  };
  for (int j = 0; j < nv && sensor_velocities_; j++) {
    const double centre = d->qvel[j];
    double ends[2];
    for (int side = 0; side < 2; side++) {
      d->qvel[j] = ends[side] = centre + (side ? -eps : eps);
      d->flg_energyvel = 0;
      if (kinetic_) mj_sensorPos(m, d);
      velocity(m, d);
      mju_copy(side ? minus : plus, d->sensordata, ns);
    }
    d->qvel[j] = centre;
    put(false, nv + j, ends[0] - ends[1]);
  }
  for (int j = 0; j < nv; j++) {
    mju_zero(direction, nv);
    direction[j] = 1;
    for (int side = 0; side < 2; side++) {
      mju_copy(d->qpos, qpos, nq);
      mj_integratePos(m, d->qpos, direction, side ? -eps : eps);
      position(m, d);
      velocity(m, d);
      mju_copy(side ? minus : plus, d->sensordata, ns);
    }
    put(true, j, 2 * eps);
  }
  mju_copy(d->qpos, qpos, nq);
}

}  // namespace mbrl
