"""Whether pictures can be drawn here, asked before anything starts; without MuJoCo itself."""

from __future__ import annotations

import ctypes.util
import os
from typing import Final

LIBRARIES: Final = {
    "osmesa": ("OSMesa", "libosmesa6"),
    "egl": ("EGL", "libegl1"),
    "glfw": ("GL", "libgl1"),
}
"""Library and Debian package that each value of MUJOCO_GL needs."""


class NoRendering(Exception):
    """No OpenGL library; the text says which and how to get it."""


def check_rendering() -> None:
    """Raise NoRendering unless MuJoCo will find its OpenGL library."""
    # The package `simulation` chooses osmesa where nothing is chosen.
    backend = os.environ.get("MUJOCO_GL", "osmesa").lower()
    if backend not in LIBRARIES:
        known = ", ".join(LIBRARIES)
        raise NoRendering(f"MUJOCO_GL={backend} cannot draw pictures; known values: {known}")
    library, package = LIBRARIES[backend]
    if ctypes.util.find_library(library) is None:
        raise NoRendering(
            f"the OpenGL library lib{library} is missing, so that no picture can be drawn: "
            f"apt-get install {package}"
        )
