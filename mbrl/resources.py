"""Where the data files that ship with the package are."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def resource_path(folder: str, name: str) -> Path:
    """Return the path of a shipped file: inside an installed package, or beside it in a checkout.

    Args:
        folder: "assets" or "configs".
        name: file name inside it.
    """
    inside = _PACKAGE / folder / name
    return inside if inside.exists() else _PACKAGE.parent / folder / name
