"""Independent oracles: plain MjData, one row at a time, MuJoCo's own manifold operations.

Nothing here imports the package under test.
"""

import copy

import mujoco
import numpy as np


def load(model, data, x, u):
    """Set a reset MjData to the state [qpos, qvel, act] ``x`` (nx,) and the control ``u`` (nu,)."""
    mujoco.mj_resetData(model, data)
    data.qpos[:], data.qvel[:], data.act[:] = split(model, x)
    data.ctrl[:] = u


def split(model, x):
    nq, nv = model.nq, model.nv
    return x[:nq], x[nq : nq + nv], x[nq + nv :]


def read(data):
    """Return [qpos, qvel, act] of an MjData."""
    return np.concatenate([data.qpos, data.qvel, data.act])


def step(model, data, x, u, frame_skip=1):
    """``frame_skip`` times mj_step with a cold solver at the beginning; ``data`` keeps the rest."""
    load(model, data, x, u)  # resets qacc_warmstart to zero
    for _ in range(frame_skip):
        mujoco.mj_step(model, data)
    if any(warning.number for warning in data.warning):
        raise FloatingPointError("the reference itself diverged")
    return read(data)


def steps(model, states, ctrls, frame_skip=1):
    """The serial loop over rows: (B, nx), (B, nu) -> (B, nx)."""
    data = mujoco.MjData(model)
    return np.stack(
        [step(model, data, x, u, frame_skip) for x, u in zip(states, ctrls, strict=True)]
    )


def retract(model, x, dx):
    """x (+) dx by mj_integratePos."""
    qpos, qvel, act = map(np.copy, split(model, x))
    mujoco.mj_integratePos(model, qpos, dx[: model.nv], 1.0)
    nv = model.nv
    return np.concatenate([qpos, qvel + dx[nv : 2 * nv], act + dx[2 * nv :]])


def difference(model, x, y):
    """y (-) x by mj_differentiatePos."""
    dq = np.empty(model.nv)
    mujoco.mj_differentiatePos(model, dq, 1.0, split(model, x)[0], split(model, y)[0])
    return np.concatenate([dq, (y - x)[model.nq :]])


def converged(model, tolerance=0.0):
    """Return a copy whose constraint solver does not stop early."""
    model = copy.copy(model)
    model.opt.solver = mujoco.mjtSolver.mjSOL_NEWTON
    model.opt.tolerance, model.opt.iterations = tolerance, 200
    return model


def jacobian(model, x, u, frame_skip=1, eps=1e-6):
    """Centred differences [A B] (ndx, ndx + nu) of the converged step along mj_integratePos."""
    model = converged(model)
    data = mujoco.MjData(model)
    ndx = 2 * model.nv + model.na
    columns = []
    for j in range(ndx + model.nu):
        ends = []
        for h in (-eps, eps):
            dx, du = np.zeros(ndx), np.zeros(model.nu)
            (dx if j < ndx else du)[j if j < ndx else j - ndx] = h
            ends.append(step(model, data, retract(model, x, dx), u + du, frame_skip))
        columns.append(difference(model, *ends) / (2.0 * eps))
    return np.stack(columns, axis=1)


def extrapolated(model, states, ctrls, frame_skip=1):
    """Jacobians (B, ndx, ndx + nu), and where two sizes of differences agree on them (B,)."""
    fine, wide = (
        np.stack(
            [jacobian(model, x, u, frame_skip, eps) for x, u in zip(states, ctrls, strict=True)]
        )
        for eps in (1e-6, 3e-6)
    )
    # Errors of centred differences are quadratic in their size.
    return (9.0 * fine - wide) / 8.0, relative_error(wide, fine) < 2e-5


def random_states(model, rng, *batch):
    """Standard normal states (*batch, nx) with uniformly random rotations."""
    x = rng.standard_normal((*batch, model.nq + model.nv + model.na))
    for kind, start in zip(model.jnt_type.tolist(), model.jnt_qposadr.tolist(), strict=True):
        if kind in (mujoco.mjtJoint.mjJNT_FREE, mujoco.mjtJoint.mjJNT_BALL):
            start += 3 * (kind == mujoco.mjtJoint.mjJNT_FREE)
            quaternion = x[..., start : start + 4]
            quaternion /= np.linalg.norm(quaternion, axis=-1, keepdims=True)
    return x


def samples(model, n, *, seed=0, length=40, frame_skip=1, reach=0.95):
    """States and controls met along random trajectories: (n, nx), (n, nu).

    Controls stay clear of their bounds, so that centred differences exist there.
    """
    rng = np.random.default_rng(seed)
    low, high = np.where(model.actuator_ctrllimited, model.actuator_ctrlrange.T, [[-1.0], [1.0]])
    middle, half = (low + high) / 2.0, (high - low) / 2.0
    data = mujoco.MjData(model)
    states, ctrls = [], []
    for _ in range(n):
        mujoco.mj_resetData(model, data)
        mujoco.mj_integratePos(model, data.qpos, 0.1 * rng.standard_normal(model.nv), 1.0)
        data.qvel[:] = 0.1 * rng.standard_normal(model.nv)
        for t in range(rng.integers(1, length + 1) * frame_skip):
            if t % (5 * frame_skip) == 0:
                data.ctrl[:] = middle + reach * half * rng.uniform(-1.0, 1.0, model.nu)
            mujoco.mj_step(model, data)
        states.append(read(data))
        ctrls.append(data.ctrl.copy())
    return np.stack(states), np.stack(ctrls)


class Case:
    """States met by a model, the Jacobians there, and where those can be told to the last digits.

    What is expected are centred differences of two sizes, extrapolated to size zero (Richardson),
    for each of them errs by the bend of stiff contacts. A state is trusted if the two agree: a step
    that switches between them (a contact opens, a joint meets its limit) has no Jacobian to compare
    with.
    """

    def __init__(self, model, n, *, frame_skip=1, seed=0):
        self.model, self.frame_skip = model, frame_skip
        self.states, self.ctrls = samples(
            model, n, seed=seed, length=max(1, 150 // frame_skip), frame_skip=frame_skip
        )
        self.expected, self.trusted = extrapolated(model, self.states, self.ctrls, frame_skip)

    def errors(self, linearization):
        """Relative errors of [A B]: the median over all states, the worst over trusted ones."""
        error = relative_error(np.concatenate(linearization, axis=2), self.expected)
        return np.median(error), error[self.trusted].max(initial=0.0)


def relative_error(found, expected):
    """Frobenius norm of the difference over that of the expected, of matrices (..., n, m)."""
    found, expected = np.asarray(found), np.asarray(expected)
    squares = ((found - expected) ** 2).sum((-2, -1)) / (expected**2).sum((-2, -1))
    return np.sqrt(squares)
