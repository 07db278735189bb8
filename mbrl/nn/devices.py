"""Where networks of many rows are computed."""

from __future__ import annotations

from typing import Literal

import torch

from mbrl.errors import ArgumentError

Device = Literal["auto", "cpu", "cuda"]


def find_device(name: Device, argument: str = "device") -> torch.device:
    """Return the device of that name; ``auto`` is the graphics processor, if there is one.

    Args:
        name: see above.
        argument: what it is called, for messages.

    Raises:
        ArgumentError: if there is no such device here.
    """
    here = torch.cuda.is_available()
    if name == "cuda" and not here:
        raise ArgumentError(f"{argument}: 'cuda' is not available here; legal: 'auto', 'cpu'")
    return torch.device("cuda" if here and name != "cpu" else "cpu")
