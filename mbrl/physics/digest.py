"""Whether two models are the same one."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import mujoco
import numpy as np

# What steps do not depend on: names, where files are, and looks.
_ASIDE = re.compile(
    r"_|names|paths|name_|nnames|npaths|nbuffer|signature|vis|n?(tex|mat|light|cam|skin)|"
    r".*(pathadr|rgba|matid|group)$"
)


def model_digest(model: mujoco.MjModel) -> str:
    """Return a digest of what steps of a model depend on; that of other versions is another."""
    digest = hashlib.sha256()
    parts: tuple[Any, ...] = (model, model.opt)
    for part in parts:
        for name in dir(part):
            if _ASIDE.match(name):
                continue
            value = getattr(part, name)
            if isinstance(value, int | float | np.ndarray):
                digest.update(name.encode())
                digest.update(np.asarray(value).tobytes())
    return f"mujoco {mujoco.__version__}, sha256 {digest.hexdigest()}"
