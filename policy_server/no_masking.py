"""A websocket extension: whole binary messages of the client come as they are, without a mask.

RFC 6455 masks what clients send so that a script in a browser cannot choose the bytes that proxies
on the way will see. No browser offers this extension, so its scripts stay masked; a robot's client
sends pictures, and masking them would cost both ends another pass over all bytes of each request.
Only `connection` and `frames` send and take such messages; every other frame is masked as ever.
"""

from __future__ import annotations

from collections.abc import Sequence

from websockets.exceptions import NegotiationError
from websockets.extensions import ClientExtensionFactory, Extension, ServerExtensionFactory
from websockets.frames import Frame
from websockets.protocol import Protocol
from websockets.typing import ExtensionName, ExtensionParameter

NAME = ExtensionName("x-no-masking")


class NoMasking(Extension):
    """What both ends have agreed on; the frames that the library sees are not concerned."""

    name = NAME

    def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame:
        return frame

    def encode(self, frame: Frame) -> Frame:
        return frame


class OfferNoMasking(ClientExtensionFactory):
    """The client's side of the handshake."""

    name = NAME

    def get_request_params(self) -> Sequence[ExtensionParameter]:
        return []

    def process_response_params(
        self, params: Sequence[ExtensionParameter], accepted_extensions: Sequence[Extension]
    ) -> NoMasking:
        if params:
            raise NegotiationError(f"{NAME} has no parameters")
        return NoMasking()


class AcceptNoMasking(ServerExtensionFactory):
    """The server's side of the handshake."""

    name = NAME

    def process_request_params(
        self, params: Sequence[ExtensionParameter], accepted_extensions: Sequence[Extension]
    ) -> tuple[list[ExtensionParameter], NoMasking]:
        if params or accepted_extensions:
            raise NegotiationError(f"{NAME} has no parameters and comes once")
        return [], NoMasking()


def agreed(protocol: Protocol) -> bool:
    """Whether both ends of this connection, after its handshake, know the extension."""
    return any(isinstance(extension, NoMasking) for extension in protocol.extensions)
