"""The embedded default: one MuJoCo world, driven live (libfranka protocol) or fast (in process)."""

import os

# Before MuJoCo is first imported: OSMesa is the quickest renderer on a machine without a GPU.
os.environ.setdefault("MUJOCO_GL", "osmesa")
