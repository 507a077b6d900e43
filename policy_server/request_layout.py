"""Where the values of a request stand, so that the next one of the same form needs no parser.

A client asks again and again with one instruction and one set of cameras. Its messages then differ
in the pictures, some numbers, and what follows the robot's state (options, previous chunk,
deadline). `RequestLayout` knows the places of those. The client fills them in, and sends the
pictures from where they are; the server takes them out, the pictures as views of the message, once
all bytes in between have proved the same. Every other message is the business of `contracts.wire`,
whose encoding this is, byte for byte.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from contracts import wire
from contracts.observation import CameraFrame, Observation, RobotState
from contracts.wire import ActionRequest, WireError
from policy_server.message_piece import ARRAY_DATA, ARRAY_END, MARK, MARKED, NUMBER, Piece

Part = bytes | memoryview
REST = ("options", "previous", "deadline")
"""What follows the observation in a request."""
LARGEST_REST = 64 * 2**10
EMPTY_MAP = 0x80
"""msgpack's map with n < 16 entries begins with EMPTY_MAP + n."""
VECTOR = "56s"
"""Format of seven numbers."""


@dataclass(frozen=True)
class RequestForm:
    """What a layout depends on: the text, and name, height and width of each picture."""

    instruction: str
    pictures: tuple[tuple[str, int, int], ...]

    @classmethod
    def of(cls, observation: Observation) -> RequestForm:
        shapes = ((name, *f.image.shape[:2]) for name, f in observation.frames.items())
        return cls(observation.instruction, tuple(shapes))

    def example(self) -> Observation:
        """A valid observation of this form; every single number of it is MARKED."""
        frames = {
            name: CameraFrame(np.zeros((height, width, 3), np.uint8), MARKED)
            for name, height, width in self.pictures
        }
        pose = np.array([0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0])
        state = RobotState(pose, np.zeros(7), np.zeros(7), MARKED, MARKED)
        return Observation(self.instruction, frames, state, MARKED)


_ANY_OBSERVATION = wire.observation_to_message(RequestForm("any", (("any", 1, 1),)).example())


def _values(data: bytes, start: int, end: int) -> Iterator[tuple[int, str]]:
    """Place and format of the numbers and vectors in `data` from `start` to `end`."""
    while True:
        number = data.find(MARK, start, end)
        vector = data.find(ARRAY_END, start + len(ARRAY_END), end)
        if number >= 0 and (vector < 0 or number < vector):
            yield number, NUMBER
            start = number + len(MARK)
        elif vector >= 0:
            yield vector - struct.calcsize(VECTOR), VECTOR
            start = vector
        else:
            return


class RequestLayout:
    """Places of the values in requests of one form. For one client and one thread."""

    def __init__(self, form: RequestForm) -> None:
        self.form = form
        message = wire.observation_to_message(form.example())
        fixed = {name: value for name, value in message.items() if name not in REST}
        data, self._entries, start = wire.pack(fixed), len(fixed), 1
        self._pieces: list[Piece] = []
        self._names = [name for name, _, _ in form.pictures]
        self._shapes = [(height, width, 3) for _, height, width in form.pictures]
        self._places: list[int] = []
        for _, height, width in form.pictures:
            size = height * width * 3
            header = 2 if size < 2**8 else 3 if size < 2**16 else 5
            place = data.index(ARRAY_DATA, start) + len(ARRAY_DATA) + header
            self._pieces.append(Piece(data, start, place, _values(data, start, place)))
            self._places.append(place)
            start = place + size
        self._pieces.append(Piece(data, start, len(data), _values(data, start, len(data))))
        self._size = len(data)
        self._written: tuple[object, bytes, bytes] | None = None
        self._read: tuple[int, bytes, ActionRequest] | None = None

    def fits(self, observation: Observation) -> bool:
        """Whether requests with `observation` have this form."""
        frames = observation.frames
        return (
            observation.instruction == self.form.instruction
            and list(frames) == self._names
            and [frame.image.shape for frame in frames.values()] == self._shapes
        )

    def write(self, request: ActionRequest) -> list[Part]:
        """The message of a request of this form, in parts; pictures are views of the request's."""
        seen, state = request.observation, request.observation.state
        frames = list(seen.frames.values())
        values: list[float | bytes] = [
            seen.stamp,
            *(frame.stamp for frame in frames),
            state.pose.tobytes(),
            state.joint_positions.tobytes(),
            state.joint_velocities.tobytes(),
            state.gripper_opening,
            state.stamp,
        ]
        first, rest = self._rest_bytes(request)
        parts: list[Part] = [first]
        at = 0
        for piece, frame in zip(self._pieces, frames, strict=False):
            parts.append(piece.write(values[at : at + piece.values]))
            parts.append(np.ascontiguousarray(frame.image).reshape(-1).data)
            at += piece.values
        parts += [self._pieces[-1].write(values[at:]), rest]
        return parts

    def read(self, message: memoryview) -> ActionRequest | None:
        """The request in `message`, whose pictures are views of it; None if the form is another.

        None also for a request that is not valid, whose faults `contracts.wire` names.
        """
        if len(message) < self._size:
            return None
        values: list[Any] = []
        for piece in self._pieces:
            found = piece.read(message)
            if found is None:
                return None
            values += found
        rest = self._read_rest(message)
        if rest is None:
            return None
        stamp, *stamps, pose, positions, velocities, opening, state_stamp = values
        try:
            frames = {
                name: CameraFrame(np.ndarray(shape, np.uint8, message, place), taken)
                for name, shape, place, taken in zip(
                    self._names, self._shapes, self._places, stamps, strict=True
                )
            }
            state = RobotState(
                np.frombuffer(pose),
                np.frombuffer(positions),
                np.frombuffer(velocities),
                opening,
                state_stamp,
            )
            observation = Observation(self.form.instruction, frames, state, stamp)
        except ValueError:
            return None
        return ActionRequest(observation, rest.options, rest.previous, rest.deadline)

    def _rest_bytes(self, request: ActionRequest) -> tuple[bytes, bytes]:
        """First byte of the message, and what follows the observation."""
        plain = request.previous is None and not request.options
        if plain and self._written is not None and self._written[0] == request.deadline:
            return self._written[1:]
        message = wire.request_to_message(request)
        entries = {name: message[name] for name in REST if name in message}
        first, rest = bytes([EMPTY_MAP + self._entries + len(entries)]), wire.pack(entries)[1:]
        if plain:
            self._written = request.deadline, first, rest
        return first, rest

    def _read_rest(self, message: memoryview) -> ActionRequest | None:
        """A request with the options, previous chunk and deadline of `message`."""
        first, rest = message[0], bytes(message[self._size :][:LARGEST_REST])
        if self._read is not None and self._read[:2] == (first, rest):
            return self._read[2]
        count = first - EMPTY_MAP - self._entries
        if not 0 <= count <= len(REST):
            return None
        try:
            entries = wire.unpack(bytes([EMPTY_MAP + count]) + rest)
            if not entries.keys() <= set(REST):
                return None
            found = wire.request_from_message(_ANY_OBSERVATION | entries)
        except WireError:
            return None
        self._read = first, rest, found
        return found


class LastLayout:
    """The layout of the form that came last, from its second time on."""

    def __init__(self) -> None:
        self._form: RequestForm | None = None
        self._layout: RequestLayout | None = None

    def of(self, observation: Observation) -> RequestLayout | None:
        """The layout for requests with `observation`, if that form was the last one too."""
        if self._layout is not None and self._layout.fits(observation):
            return self._layout
        form = RequestForm.of(observation)
        same, self._form = form == self._form, form
        self._layout = RequestLayout(form) if same else None
        return self._layout

    def read(self, message: memoryview) -> ActionRequest | None:
        """As `RequestLayout.read`, with the last layout; None if there is none."""
        return None if self._layout is None else self._layout.read(message)
