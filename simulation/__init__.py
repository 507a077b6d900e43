"""The embedded default: one MuJoCo world, driven live (libfranka protocol) or fast (in process)."""

import os

# Before MuJoCo is first imported: OSMesa is the quickest renderer on a machine without a GPU.
os.environ.setdefault("MUJOCO_GL", "osmesa")
# Its rasteriser is a third slower with the 512-bit vectors that it picks where it finds them.
os.environ.setdefault("LP_NATIVE_VECTOR_WIDTH", "128")
