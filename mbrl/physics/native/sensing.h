// Sensor values of a state as mj_forward leaves them, and their Jacobians, without its dynamics.

#pragma once

#include <mujoco/mujoco.h>

#include <vector>

namespace mbrl {

// What is measured. A model need not have a sensor for it.
struct Probe {
  int kind;  // kSensor, or an mjtSensor in the world's frame: of a frame, or of a subtree
  int type;  // mjtObj of the frame: body, xbody, geom or site; ignored else
  int id;    // of the frame or of the subtree's body; of the model's sensor for kSensor
};
constexpr int kSensor = -1;

// Values of probes that depend on position and velocity alone. Positions and velocities of frames
// and subtrees have Jacobians in closed form; sensors of the model are differenced, in position
// and, where they depend on it, in velocity.
class Sensing {
 public:
  Sensing(const mjModel* m, std::vector<Probe> probes);

  int size() const { return size_; }

  // The state must be in d. Values (size).
  void evaluate(const mjModel* m, mjData* d, double* values) const;

  // Values (size), and their Jacobian (size, ndx) by state increments [dq, dv, dact].
  void differentiate(const mjModel* m, mjData* d, double eps, double* values,
                     double* jacobian) const;

 private:
  void position(const mjModel* m, mjData* d) const;
  void velocity(const mjModel* m, mjData* d) const;
  void read(const mjModel* m, const mjData* d, double* values) const;
  void closed_form(const mjModel* m, mjData* d, double* jacobian) const;
  void differences(const mjModel* m, mjData* d, double eps, double* jacobian) const;

  std::vector<Probe> probes_;
  std::vector<int> start_;  // of each probe among the values
  int size_ = 0;
  bool velocities_ = false, sensors_ = false, sensor_velocities_ = false;
  bool kinetic_ = false;      // the kinetic energy
  bool subtrees_ = false;     // velocities of subtrees
  bool constraints_ = false;  // some sensor of the model needs more than kinematics
};

}  // namespace mbrl
