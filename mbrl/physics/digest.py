"""Whether two models are the same one."""

from __future__ import annotations

import hashlib

import mujoco
import numpy as np


def model_digest(model: mujoco.MjModel) -> str:
    """Return a digest of everything in a compiled model; other versions of MuJoCo give others."""
    content = np.empty(mujoco.mj_sizeModel(model), np.uint8)
    mujoco.mj_saveModel(model, None, content)
    return f"mujoco {mujoco.__version__}, sha256 {hashlib.sha256(content.tobytes()).hexdigest()}"
