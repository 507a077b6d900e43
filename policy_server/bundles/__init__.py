"""The bundles that come with the software, one directory each, and how to find one by name."""

from __future__ import annotations

from pathlib import Path

from contracts.bundle import MANIFEST, BundleError

PACKAGED = Path(__file__).parent


def find_bundle(name: str) -> Path:
    """Directory of the bundle called `name`: one of this package's, else a path.

    Raises:
        BundleError: neither exists; the message lists the names that do.
    """
    names = sorted(path.parent.name for path in PACKAGED.glob(f"*/{MANIFEST}"))
    if name in names:
        return PACKAGED / name
    if Path(name).is_dir():
        return Path(name)
    known = ", ".join(names) or "none"
    raise BundleError(
        f"unknown bundle {name!r}: neither a directory nor one that is shipped ({known})"
    )
