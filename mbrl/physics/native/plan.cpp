#include "plan.h"

#include <algorithm>
#include <limits>

namespace mbrl {

namespace {

bool any(const mjtNum* x, mjtSize n) {
  return std::any_of(x, x + n, [](mjtNum v) { return v != 0; });
}

bool any_true(const mjtBool* x, mjtSize n) {
  return std::any_of(x, x + n, [](mjtBool v) { return v != 0; });
}

bool spatial(const mjModel* m, int tendon) {
  return m->wrap_type[m->tendon_adr[tendon]] != mjWRAP_JOINT;
}

bool constant_moment(const mjModel* m, int actuator) {
  switch (m->actuator_trntype[actuator]) {
    case mjTRN_JOINT:
      return true;
    case mjTRN_TENDON:
      return !spatial(m, m->actuator_trnid[2 * actuator]);
    default:
      return false;
  }
}

Actuation actuation(const mjModel* m) {
  bool moments = true, forces = true;
  for (int i = 0; i < m->nactuator; i++) {
    moments &= constant_moment(m, i);
    forces &= m->actuator_gaintype[i] == mjGAIN_FIXED && m->actuator_biastype[i] == mjBIAS_NONE;
    // The length of a ball's transmission is a nonlinear function of the quaternion.
    const bool ball = m->actuator_trntype[i] == mjTRN_JOINT &&
                      (m->jnt_type[m->actuator_trnid[2 * i]] == mjJNT_BALL ||
                       m->jnt_type[m->actuator_trnid[2 * i]] == mjJNT_FREE);
    moments &= !ball || (m->actuator_gaintype[i] == mjGAIN_FIXED &&
                         m->actuator_biastype[i] == mjBIAS_NONE);
  }
  // Gravity compensation through actuators depends on the pose; so do joint force limits then.
  if (!moments || (m->flg_gravcomp && any_true(m->jnt_actgravcomp, m->njnt))) {
    return Actuation::kGeneral;
  }
  return forces ? Actuation::kConstant : Actuation::kLength;
}

bool ellipsoids(const mjModel* m) {
  for (int g = 0; g < m->ngeom; g++) {
    if (m->geom_fluid[mjNFLUID * g] != 0) return true;
  }
  return false;
}

bool has_fluid(const mjModel* m) {
  constexpr int kPassive = mjDSBL_SPRING | mjDSBL_DAMPER;  // with neither, no passive force at all
  return (m->opt.density > 0 || m->opt.viscosity > 0) &&
         (m->opt.disableflags & kPassive) != kPassive;
}

Passive passive(const mjModel* m) {
  if (m->flg_gravcomp || any(m->jnt_stiffnesspoly, mjNPOLY * m->njnt) ||
      any(m->dof_dampingpoly, mjNPOLY * m->nv) || any(m->actuator_damping, m->nactuator) ||
      any(m->actuator_dampingpoly, mjNPOLY * m->nactuator)) {
    return Passive::kGeneral;
  }
  for (int t = 0; t < m->ntendon; t++) {
    if (m->tendon_stiffness[t] != 0 || m->tendon_damping[t] != 0 ||
        any(m->tendon_stiffnesspoly + mjNPOLY * t, mjNPOLY) ||
        any(m->tendon_dampingpoly + mjNPOLY * t, mjNPOLY)) {
      return Passive::kGeneral;
    }
  }
  for (int j = 0; j < m->njnt; j++) {
    const int type = m->jnt_type[j];
    if (m->jnt_stiffness[j] != 0 && type != mjJNT_HINGE && type != mjJNT_SLIDE) {
      return Passive::kGeneral;
    }
  }
  if (has_fluid(m) && (ellipsoids(m) || any(m->opt.wind, 3))) {
    return Passive::kGeneral;
  }
  return Passive::kAnalytic;
}

bool plain_controls(const mjModel* m) {
  for (int i = 0; i < m->nactuator; i++) {
    if (m->actuator_dyntype[i] != mjDYN_NONE || m->actuator_gaintype[i] != mjGAIN_FIXED ||
        m->actuator_forcelimited[i] || m->actuator_ctrlnum[i] != 1 || m->actuator_outnum[i] != 1) {
      return false;
    }
  }
  return m->nu == m->nactuator && m->opt.disableactuator == 0 &&
         !any_true(m->jnt_actfrclimited, m->njnt) &&
         !any_true(m->tendon_actfrclimited, m->ntendon);
}

bool velocity_gains(const mjModel* m) {
  for (int i = 0; i < m->nactuator; i++) {
    const int gain = m->actuator_gaintype[i], bias = m->actuator_biastype[i];
    const bool flat = gain == mjGAIN_FIXED ||
                      (gain == mjGAIN_AFFINE && m->actuator_gainprm[mjNGAIN * i + 2] == 0);
    const bool level = bias == mjBIAS_NONE ||
                       (bias == mjBIAS_AFFINE && m->actuator_biasprm[mjNBIAS * i + 2] == 0);
    if (!flat || !level || m->actuator_damping[i] != 0 ||
        any(m->actuator_dampingpoly + mjNPOLY * i, mjNPOLY)) {
      return true;
    }
  }
  return false;
}

bool damped_euler(const mjModel* m) {
  return m->opt.integrator == mjINT_EULER &&
         !(m->opt.disableflags & (mjDSBL_EULERDAMP | mjDSBL_DAMPER)) &&
         (any(m->dof_damping, m->nv) || any(m->dof_dampingpoly, mjNPOLY * m->nv));
}

std::vector<int> standalone(const mjModel* m) {
  std::vector<int> found;
  for (int j = 0; j < m->njnt; j++) {
    if (m->jnt_type[j] != mjJNT_FREE) continue;
    const int tree = m->dof_treeid[m->jnt_dofadr[j]];
    if (m->tree_dofnum[tree] == 6) found.push_back(m->jnt_dofadr[j]);
  }
  return found;
}

}  // namespace

Plan::Plan(const mjModel* m)
    : nq(static_cast<int>(m->nq)),
      nv(static_cast<int>(m->nv)),
      na(static_cast<int>(m->na)),
      nu(static_cast<int>(m->nu)),
      nx(nq + nv + na),
      ndx(2 * nv + na),
      columns(ndx + nu),
      actuation(mbrl::actuation(m)),
      passive(mbrl::passive(m)),
      fluid(passive == Passive::kAnalytic && has_fluid(m)),
      plain_controls(mbrl::plain_controls(m)),
      velocity_gains(mbrl::velocity_gains(m)),
      damped_euler(mbrl::damped_euler(m)),
      implicit(m->opt.integrator == mjINT_IMPLICIT || m->opt.integrator == mjINT_IMPLICITFAST),
      drifting_damping(passive == Passive::kGeneral || fluid || velocity_gains),
      standalone(mbrl::standalone(m)) {
  const double infinity = std::numeric_limits<double>::infinity();
  low.assign(na + nu, -infinity);
  high.assign(na + nu, infinity);
}

std::string unsupported(const mjModel* m) {
  const mjOption& opt = m->opt;
  if (opt.integrator == mjINT_DISCRETE) return "the discrete integrator";
  if (m->nflex) return "flexes";
  if (m->nplugin) return "engine plugins";
  if (opt.noslip_iterations > 0) return "noslip iterations";
  if (opt.enableflags & mjENBL_SPECULATIVE) return "speculative contacts";
  if (opt.enableflags & mjENBL_DIAGEXACT) return "the exact constraint diagonal (diagexact)";
  // The arrays, not the flags: those are the compiled model's, and a row may have values of its own.
  if (m->flg_surfacevel || any(m->geom_surfacevel, 6 * m->ngeom)) {
    return "surface velocities of geoms";
  }
  if (m->flg_adhesion || any(m->geom_adhesion, m->ngeom)) return "adhesion of geoms";
  if (m->nv == 0) return "models without degrees of freedom";
  for (int i = 0; i < m->nv; i++) {
    if (m->dof_damping[i] < 0) return "negative joint damping";
  }
  if (opt.integrator == mjINT_IMPLICITFAST && has_fluid(m) && !standalone(m).empty()) {
    return "fluid forces on free bodies with the implicitfast integrator";
  }
  for (int t = 0; t < m->ntendon; t++) {
    if (m->tendon_armature[t] != 0 && spatial(m, t)) return "armature of spatial tendons";
  }
  for (int i = 0; i < m->nactuator; i++) {
    if (m->actuator_armature[i] != 0 && !constant_moment(m, i)) {
      return "armature of an actuator whose moment is not constant";
    }
    if (opt.integrator != mjINT_RK4 &&
        (m->actuator_damping[i] != 0 || any(m->actuator_dampingpoly + mjNPOLY * i, mjNPOLY))) {
      return "damping of actuators with an integrator other than RK4";
    }
    if (m->actuator_trntype[i] == mjTRN_BODY) return "adhesion actuators";
    if (m->actuator_dyntype[i] > mjDYN_MUSCLE) {
      return "activation dynamics other than integrator, filter, filterexact and muscle";
    }
    if (m->actuator_gaintype[i] > mjGAIN_MUSCLE || m->actuator_biastype[i] > mjBIAS_MUSCLE) {
      return "actuator gains or biases other than fixed, affine and muscle";
    }
  }
  for (int i = 0; i < m->neq; i++) {
    if (m->eq_type[i] > mjEQ_TENDON) return "equality constraints of flexes";
  }
  const Plan plan(m);
  if (plan.implicit && plan.drifting_damping && !has_smooth_slopes()) {
    return "forces whose damping varies, with an implicit integrator and this libmujoco";
  }
  if (mjcb_passive || mjcb_control || mjcb_contactfilter || mjcb_act_dyn || mjcb_act_gain ||
      mjcb_act_bias) {
    return "physics callbacks";
  }
  return "";
}

}  // namespace mbrl
