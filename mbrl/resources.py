"""Where files are: the data that ship with the package, and what a configuration names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).resolve().parent
# Keys whose values may be files or runs of the user's, wherever they stand in a configuration.
_PLACES = ("model", "xml_file", "run", "dynamics", "policy")


def resource_path(folder: str, name: str) -> Path:
    """Return the path of a shipped file: inside an installed package, or beside it in a checkout.

    Args:
        folder: "assets" or "configs".
        name: file name inside it.
    """
    inside = _PACKAGE / folder / name
    return inside if inside.exists() else _PACKAGE.parent / folder / name


def located(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration that means the same in every working directory.

    A relative path of a file or folder that is there becomes absolute; of one that ships with the
    package, or is none, nothing changes.
    """
    found = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            value = located(value)
        elif isinstance(value, list):
            value = [located(item) if isinstance(item, Mapping) else item for item in value]
        elif key in _PLACES and isinstance(value, str) and value and _is_users(Path(value)):
            value = str(Path(value).expanduser().absolute())
        found[key] = value
    return found


def _is_users(path: Path) -> bool:
    path = path.expanduser()
    shipped = any(
        path.absolute().is_relative_to(root / name)
        for root in (_PACKAGE, _PACKAGE.parent)
        for name in ("assets", "configs")
    )
    return path.exists() and not shipped
