// How constraint forces change with acceleration, velocity and position: contacts, limits of
// scalar joints and friction of dofs in closed form, apart from the narrow phase of collisions.

#pragma once

#include <mujoco/mujoco.h>

#include <vector>

#include "rigid.h"

namespace mbrl {

// Rows that only differences of mj_makeConstraint can tell: equalities, tendons, ball limits.
struct GeneralRows {
  int count = 0;             // of rows before the contacts, if any of them is general; else 0
  std::vector<char> general; // (count) whether a row is one
};

// Contributions to the derivatives of inverse dynamics F = ... - J' f(J a - aref), all (nv, nv).
struct Sink {
  double* fa;
  double* fq;
  double* fv;
};

class Constraints {
 public:
  // At the solved acceleration: refreshes forces, states and cone Hessians, and the residual.
  void update(const mjModel* m, mjData* d);

  // Adds J' H J to fa and its velocity part to fv; cheap, in closed form, for all rows.
  void add_metric(const mjModel* m, const mjData* d, const Sink& sink);

  // Adds the position part of all rows in closed form. False if the collision functions do not
  // reproduce the engine's contacts or lose them within ``eps``.
  bool add_positions(const mjModel* m, mjData* d, const Rigid& rigid, double eps,
                     const Sink& sink);

  // Adds the position part of a general row along dof j, given the slopes of its residual, of the
  // logarithm of its weight and of its Jacobian (nv). ``force`` is the row's force.
  void add_general(int row, double force, int j, double residual_slope, double log_weight_slope,
                   const double* jacobian_slope, const Sink& sink) const;

  // Adds what the slope of a general row's reference acceleration in velocity j has beyond -B J.
  void add_general_velocity(int row, double damping, int j, double reference_slope,
                            const Sink& sink) const;

  const GeneralRows& general_rows() const { return general_; }

 private:
  struct Geometry {  // derivative of one contact along one dof; nothing but doubles
    double distance, point[3], frame[9];
  };

  void classify(const mjModel* m, const mjData* d);
  void accelerations(const mjModel* m, const mjData* d);
  void load_rows(const mjModel* m, const mjData* d);
  static bool slope(const mjPreContact* high, const mjPreContact* low, const mjPreContact& centre,
                    double eps, Geometry* out);
  bool pair_geometry(const mjModel* m, mjData* d, int first, int last, double eps);
  void add_contact(const mjModel* m, const mjData* d, const Rigid& rigid, int contact, int slot,
                   const Sink& sink);
  void support(const mjModel* m, int body1, int body2, bool twisting);

  int nv_ = 0;
  std::vector<double> jar_, jacobian_, hj_;    // (nefc), (nefc, nv), (nefc, nv): J, H J
  std::vector<double> rel_, before_;           // per body, per dof: sums of S a
  std::vector<int> dofs_, side_;               // support of a pair of bodies
  size_t apart_ = 0;                           // how many of them move one body only, first
  std::vector<Geometry> geometry_;             // (dofs, contacts of a pair)
  std::vector<mjPreContact> found_;
  GeneralRows general_;
};

}  // namespace mbrl
