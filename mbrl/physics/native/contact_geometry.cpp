// How distance, point and frame of contacts change: the narrow phase of collisions, differenced.

#include <algorithm>
#include <cmath>

#include "constraints.h"
#include "spatial.h"

namespace mbrl {

namespace {

constexpr double kSameGeometry = 1e-9;  // metres, and entries of frames
constexpr double kBend = 0.1;           // relative change of slope that passes for smooth
constexpr double kFastest = 1e3;        // slope of a contact whose Jacobian can be told

// A right-handed frame around the normal, as MuJoCo completes it from a first tangent.
void complete_frame(double* frame, const mjPreContact& c) {
  double t[3] = {c.tangent[0], c.tangent[1], c.tangent[2]};
  const double* n = c.normal;
  if (dot3(t, t) < 0.25) {
    t[0] = t[1] = t[2] = 0;
    if (n[1] < 0.5 && n[1] > -0.5) {
      t[1] = 1;
    } else {
      t[2] = 1;
    }
  }
  const double along = dot3(n, t);
  double norm = 0;
  for (int i = 0; i < 3; i++) {
    frame[i] = n[i];
    frame[3 + i] = t[i] - along * n[i];
    norm += frame[3 + i] * frame[3 + i];
  }
  norm = std::sqrt(norm);
  for (int i = 0; i < 3; i++) frame[3 + i] /= norm;
  cross3(frame + 6, frame, frame + 3);
}

// Distance, point and frame of a contact, in the order of Constraints::Geometry.
void describe(const mjPreContact& c, double* out) {
  out[0] = c.dist;
  mju_copy3(out + 1, c.pos);
  complete_frame(out + 4, c);
}

int collide(const mjModel* m, mjData* d, const mjContact& c, mjPreContact* found) {
  const int a = c.geom[0], b = c.geom[1];
  double margin = c.includemargin;
  margin += std::max(m->geom_gap[a], m->geom_gap[b]);
  return mjCOLLISIONFUNC[m->geom_type[a]][m->geom_type[b]](m, d, found, a, b, margin);
}

// Pose of a geom, kept while it is displaced.
struct Pose {
  double x[3], R[9], q[4];
};

void keep(Pose& pose, const mjData* d, int g) {
  mju_copy3(pose.x, d->geom_xpos + 3 * g);
  mju_copy(pose.R, d->geom_xmat + 9 * g, 9);
  mju_copy4(pose.q, d->geom_xquat + 4 * g);
}

void put(mjData* d, int g, const Pose& pose) {
  mju_copy3(d->geom_xpos + 3 * g, pose.x);
  mju_copy(d->geom_xmat + 9 * g, pose.R, 9);
  mju_copy4(d->geom_xquat + 4 * g, pose.q);
}

// Displace by h along the motion S, given about ``reference``.
Pose displaced(const Pose& pose, const double* S, const double* reference, double h) {
  Pose moved;
  double p[3], v[3];
  for (int i = 0; i < 3; i++) p[i] = pose.x[i] - reference[i];
  point_motion(v, S, p);
  for (int i = 0; i < 3; i++) moved.x[i] = pose.x[i] + h * v[i];
  const double turn[4] = {1, 0.5 * h * S[0], 0.5 * h * S[1], 0.5 * h * S[2]};
  mju_mulQuat(moved.q, turn, pose.q);
  mju_normalize4(moved.q);
  double R[9], unit[4] = {turn[0], turn[1], turn[2], turn[3]};
  mju_normalize4(unit);
  mju_quat2Mat(R, unit);
  mju_mulMatMat(moved.R, R, pose.R, 3, 3, 3);
  return moved;
}

}  // namespace

// Slope of one contact from its displaced versions, nullptr where there is none. A contact that
// jumps (to another vertex, say, or because a pair's contacts change places) on one side is
// differenced on the other. False if there is no smooth side.
bool Constraints::slope(const mjPreContact* high, const mjPreContact* low,
                        const mjPreContact& centre, double eps, Geometry* out) {
  constexpr int n = sizeof(Geometry) / sizeof(double);
  double up[n], down[n], at[n], rise = 0, fall = 0, bend = 0;
  describe(centre, at);
  if (high) describe(*high, up);
  if (low) describe(*low, down);
  for (int i = 0; i < n; i++) {
    up[i] = high ? (up[i] - at[i]) / eps : 0;
    down[i] = low ? (at[i] - down[i]) / eps : 0;
    rise += up[i] * up[i];
    fall += down[i] * down[i];
    bend += (up[i] - down[i]) * (up[i] - down[i]);
  }
  const bool smooth = high && low && bend < kBend * kBend * (1 + rise + fall);
  const bool rising = high && (!low || rise < fall);
  if (!high && !low) return false;
  if ((rising ? rise : fall) > kFastest * kFastest) return false;
  double* values = &out->distance;
  for (int i = 0; i < n; i++) {
    values[i] = smooth ? 0.5 * (up[i] + down[i]) : (rising ? up[i] : down[i]);
  }
  return true;
}

// Derivatives of the contacts first..last-1 of one pair of geoms, along every dof of the support.
bool Constraints::pair_geometry(const mjModel* m, mjData* d, int first, int last, double eps) {
  const mjContact& c = d->contact[first];
  const int count = last - first, a = c.geom[0], b = c.geom[1];
  if (a < 0 || b < 0) return false;
  found_.resize(3 * mjMAXCONPAIR);
  mjPreContact *plus = found_.data(), *minus = plus + mjMAXCONPAIR, *centre = minus + mjMAXCONPAIR;
  if (collide(m, d, c, centre) != count) return false;
  for (int k = 0; k < count; k++) {
    const mjContact& known = d->contact[first + k];
    double frame[9], off = std::fabs(known.dist - centre[k].dist);
    complete_frame(frame, centre[k]);
    for (int i = 0; i < 3; i++) off = std::max(off, std::fabs(known.pos[i] - centre[k].pos[i]));
    for (int i = 0; i < 9; i++) off = std::max(off, std::fabs(known.frame[i] - frame[i]));
    if (!(off < kSameGeometry)) return false;
  }
  geometry_.resize(dofs_.size() * count);
  Pose poses[2];
  keep(poses[0], d, a);
  keep(poses[1], d, b);
  for (size_t s = 0; s < dofs_.size(); s++) {
    const double* S = d->cdof + 6 * dofs_[s];
    const double* origin[2] = {d->subtree_com + 3 * m->body_rootid[m->geom_bodyid[a]],
                               d->subtree_com + 3 * m->body_rootid[m->geom_bodyid[b]]};
    const auto collided = [&](double h, mjPreContact* found) {
      if (side_[s] <= 0) put(d, a, displaced(poses[0], S, origin[0], h));
      if (side_[s] >= 0) put(d, b, displaced(poses[1], S, origin[1], h));
      const int n = collide(m, d, c, found);
      put(d, a, poses[0]);
      put(d, b, poses[1]);
      return n == count;
    };
    const bool up = collided(eps, plus), down = collided(-eps, minus);
    for (int k = 0; k < count; k++) {
      if (!slope(up ? plus + k : nullptr, down ? minus + k : nullptr, centre[k], eps,
                 &geometry_[s * count + k])) {
        return false;
      }
    }
  }
  return true;
}

}  // namespace mbrl
