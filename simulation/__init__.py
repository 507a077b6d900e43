"""The embedded default: one MuJoCo world, driven live (libfranka protocol) or fast (in process)."""
