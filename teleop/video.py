"""Pictures to video files and back, through FFmpeg's libraries (PyAV)."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, Self

import av
import numpy as np
from numpy.typing import NDArray

from contracts.episode import EpisodeError

CODECS: Final[dict[str, dict[str, str]]] = {
    "libx264": {"g": "2", "crf": "20", "bf": "0", "preset": "veryfast"},
    "libsvtav1": {"g": "2", "crf": "30", "preset": "12"},
}
"""Encoders and their options. A key frame in every second picture makes random access quick."""
PIXELS: Final = "yuv420p"


class VideoWriter:
    """One mp4 file, picture by picture."""

    def __init__(self, path: Path, fps: int, codec: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.count = 0
        self._fps = fps
        self._codec = codec
        self._container: Any = av.open(str(path), "w")
        self._stream: Any = None

    def add(self, image: NDArray[np.uint8]) -> None:
        """Append a picture (height, width, 3) of the first one's size; its sides must be even."""
        if self._stream is None:
            self._begin(image)
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts, frame.time_base = self.count, Fraction(1, self._fps)
        self._container.mux(self._stream.encode(frame))
        self.count += 1

    def close(self) -> None:
        """Finish the file."""
        if self._stream is not None:
            self._container.mux(self._stream.encode())
        self._container.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin(self, image: NDArray[np.uint8]) -> None:
        height, width = image.shape[:2]
        if height % 2 or width % 2:
            raise EpisodeError(f"a picture of {width}x{height} pixels: video needs even sides")
        stream = self._container.add_stream(self._codec, self._fps, options=CODECS[self._codec])
        stream.width, stream.height, stream.pix_fmt = width, height, PIXELS
        stream.thread_count = 1
        self._stream = stream


def read_video(path: Path, first: int, count: int) -> Iterator[NDArray[np.uint8]]:
    """Pictures (height, width, 3) `first` to `first + count - 1` of a video.

    Raises:
        EpisodeError: not a video, or it has fewer pictures.
    """
    try:
        with av.open(str(path)) as container:
            index = 0
            for frame in container.decode(video=0):
                if first <= index < first + count:
                    yield np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
                index += 1
                if index == first + count:
                    return
    except (OSError, av.error.FFmpegError) as error:
        raise EpisodeError(f"{path}: not a video that can be read: {error}") from error
    raise EpisodeError(f"{path}: {index} pictures, {first + count} are wanted")


def video_info(fps: int, codec: str, height: int, width: int) -> dict[str, Any]:
    """What LeRobot keeps about a video feature."""
    names = {"libx264": "h264", "libsvtav1": "av1"}
    return {
        "video.height": height,
        "video.width": width,
        "video.codec": names[codec],
        "video.pix_fmt": PIXELS,
        "video.is_depth_map": False,
        "video.fps": fps,
        "video.channels": 3,
        "has_audio": False,
    }
