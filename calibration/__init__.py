"""Where the cameras are and how late everything is: intrinsics, hand-eye, latencies."""
