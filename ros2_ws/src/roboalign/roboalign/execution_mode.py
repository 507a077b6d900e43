"""How action chunks become one motion. Pure."""

from __future__ import annotations

from enum import StrEnum


class ExecutionMode(StrEnum):
    """As in roboalign_msgs/ActionChunk.

    SYNCHRONOUS: execute, stand still, look, think, execute; what most released clients do.
    ASYNCHRONOUS: think while moving; the newest chunk wins from its first future waypoint on.
    TEMPORAL_ENSEMBLING: ask at every step and follow the mean of all chunks that speak about a
        moment (Zhao et al. 2023, ACT, section IV-B).
    REALTIME_CHUNKING: as ASYNCHRONOUS, and the server lets the new chunk go on from the one under
        execution (Black et al. 2025).
    """

    SYNCHRONOUS = "synchronous"
    ASYNCHRONOUS = "asynchronous"
    TEMPORAL_ENSEMBLING = "temporal_ensembling"
    REALTIME_CHUNKING = "realtime_chunking"


LIVE_MODE = ExecutionMode.REALTIME_CHUNKING
"""Of the robot's graph unless it is told otherwise."""
