"""A teacher behind an OpenAI-compatible chat endpoint, and what it costs.

Any server of that interface will do: a hosted model, or one's own behind vLLM. The key comes from
an environment variable and from nowhere else, so that it stands in no command line and no record.
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import httpx2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.jsonl_record import Usage

API_KEY_VARIABLE = "TEACHER_API_KEY"

REFUSALS: Final = 5
"""Scenes or questions that the teacher may refuse in a row before a run stops."""
_MIME = {"PNG": "image/png", "JPEG": "image/jpeg"}
_REFUSED = (400, 413, 422)
_RETRIED = (408, 409, 425, 429)

Picture = Path | NDArray[np.uint8]


class TeacherError(RuntimeError):
    """The endpoint cannot be used; the text says what it answered and what to do."""


class TeacherRefused(TeacherError):
    """The endpoint does not accept this one request; the next one may well pass."""


class PictureError(ValueError):
    """A picture that cannot be read; the text begins with its path."""


@dataclass(frozen=True)
class TeacherConfig:
    """Where the teacher is and how it is asked.

    url: the interface's root, up to and with "/v1".
    price_in, price_out: US dollars per million prompt and completion tokens.
    timeout: seconds that one attempt may take.
    attempts: tries per question, the first one included.
    backoff: seconds before the second try, doubled with each further one, at most `longest_wait`.
    """

    url: str
    model: str
    price_in: float = 0.0
    price_out: float = 0.0
    temperature: float = 0.7
    max_tokens: int = 4096
    timeout: float = 120.0
    attempts: int = 5
    backoff: float = 1.0
    longest_wait: float = 60.0

    def __post_init__(self) -> None:
        try:
            url = httpx2.URL(self.url)
        except httpx2.InvalidURL as error:
            raise ValueError(f"teacher url {self.url!r}: {error}") from error
        if url.userinfo:
            raise ValueError(
                f"teacher url: holds a user or password; put the key into ${API_KEY_VARIABLE}"
            )
        if url.scheme not in ("http", "https") or not url.host:
            raise ValueError(
                f"teacher url {self.url!r}: must look like https://host/v1 or http://host:8000/v1"
            )
        if not self.model:
            raise ValueError("teacher model: is empty; name the model as the endpoint does")
        if self.attempts < 1 or not self.timeout > 0:
            raise ValueError("teacher: attempts must be at least 1 and timeout above 0 s")
        if min(self.price_in, self.price_out, self.backoff, self.longest_wait) < 0:
            raise ValueError("teacher: prices and waits must not be negative")


def data_url(picture: Picture) -> str:
    """A picture as a data URL: a PNG or JPEG file as it is, anything else as PNG.

    Arrays are uint8 RGB (H, W, 3).

    Raises:
        PictureError: the file is missing or does not decode.
    """
    if not isinstance(picture, Path):
        return _encode(_png(Image.fromarray(picture)), "PNG")
    try:
        content = picture.read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            image.load()  # opening reads the header only
            if image.format in _MIME:
                return _encode(content, image.format)
            return _encode(_png(image.convert("RGB")), "PNG")
    # Pillow reports damage in each of these ways, depending on the format.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise PictureError(f"{picture}: not a readable picture ({error})") from error


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _encode(content: bytes, file_format: str) -> str:
    return f"data:{_MIME[file_format]};base64,{base64.b64encode(content).decode('ascii')}"


class Teacher:
    """Asks the endpoint; may be used from several threads. Close it, or use it in a `with`."""

    def __init__(
        self, config: TeacherConfig, *, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.config = config
        self._sleep = sleep
        self._key = os.environ.get(API_KEY_VARIABLE, "")
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self._client = httpx2.Client(headers=headers, timeout=config.timeout)
        self._url = config.url.rstrip("/") + "/chat/completions"
        self._lock = threading.Lock()
        self._usage = Usage()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    @property
    def usage(self) -> Usage:
        """Sum over all answers so far."""
        with self._lock:
            return self._usage

    def ask(
        self,
        prompt: str,
        pictures: Sequence[Picture] = (),
        *,
        system: str = "",
        json_object: bool = False,
    ) -> str:
        """The teacher's answer; empty where it declines to give one.

        Raises:
            PictureError: a picture cannot be read.
            TeacherRefused: the endpoint does not accept this request.
            TeacherError: the endpoint does not accept any, or did not answer in all attempts.
        """
        content: list[dict[str, Any]] = [
            {"type": "image_url", "image_url": {"url": data_url(picture)}} for picture in pictures
        ]
        content.append({"type": "text", "text": prompt})
        messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
        body: dict[str, Any] = {
            "model": self.config.model,
            "messages": [*messages, {"role": "user", "content": content}],
            "temperature": self.config.temperature,
            "max_tokens": self.config.max_tokens,
        }
        if json_object:
            body["response_format"] = {"type": "json_object"}
        return self._read(self._post(body))

    def _post(self, body: dict[str, Any]) -> httpx2.Response:
        """The first good response; waits between attempts, at least as long as the server asks."""
        for attempt in range(1, self.config.attempts + 1):
            asked_wait = 0.0
            try:
                response = self._client.post(self._url, json=body)
            except httpx2.RequestError as error:
                problem = f"{type(error).__name__}: {error}"
            else:
                if response.is_success:
                    return response
                problem = self._problem(response)
                if response.status_code not in _RETRIED and response.status_code < 500:
                    raise self._refusal(response, problem)
                asked_wait = _retry_after(response)
            if attempt < self.config.attempts:
                wait = max(self.config.backoff * 2 ** (attempt - 1), asked_wait)
                self._sleep(min(wait, self.config.longest_wait))
        raise TeacherError(
            f"{self._url}: no answer in {self.config.attempts} attempts, at last {problem}; "
            "check the address and the server, then run again"
        )

    def _problem(self, response: httpx2.Response) -> str:
        text = " ".join(response.text.split())[:300]
        # Some servers repeat the key that they turn down.
        text = text.replace(self._key, "***") if self._key else text
        return f"HTTP {response.status_code} {text}".rstrip()

    def _refusal(self, response: httpx2.Response, problem: str) -> TeacherError:
        if response.status_code in _REFUSED:
            return TeacherRefused(f"{self._url}: {problem}")
        advice = {
            401: f"set ${API_KEY_VARIABLE} to a valid key",
            402: "the account has no credit left",
            403: f"the key in ${API_KEY_VARIABLE} may not use this model",
            404: f"check the address and the model's name {self.config.model!r}",
        }.get(response.status_code, "check the address")
        return TeacherError(f"{self._url}: {problem}; {advice}")

    def _read(self, response: httpx2.Response) -> str:
        try:
            body = response.json()
            text = body["choices"][0]["message"].get("content") or ""
            usage = body.get("usage") or {}
            tokens = int(usage.get("prompt_tokens", 0)), int(usage.get("completion_tokens", 0))
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise TeacherError(
                f"{self._url}: the answer is not a chat completion "
                f"({type(error).__name__}: {error}); check that the address ends in /v1"
            ) from error
        if not isinstance(text, str):
            raise TeacherError(f"{self._url}: the answer's content is no text but {type(text)}")
        cost = (tokens[0] * self.config.price_in + tokens[1] * self.config.price_out) / 1e6
        with self._lock:
            self._usage += Usage(1, *tokens, cost, unmetered=int(not usage))
        return text


def _retry_after(response: httpx2.Response) -> float:
    """Seconds that the server asks to wait; 0 if it gives none or a date."""
    text = response.headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdigit() else 0.0


def add_teacher_options(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """The command line options that `config_from_options` reads."""
    group = parser.add_argument_group("teacher", f"the key is read from ${API_KEY_VARIABLE}")
    group.add_argument("--teacher", metavar="URL", required=required, help="https://host/v1")
    group.add_argument("--model", metavar="NAME", default="", help="the endpoint's name for it")
    group.add_argument("--price-in", type=float, default=0.0, help="USD per million tokens")
    group.add_argument("--price-out", type=float, default=0.0, help="USD per million tokens")
    group.add_argument("--temperature", type=float, default=TeacherConfig.temperature)
    group.add_argument("--workers", type=int, default=4, help="requests under way at once")


def config_from_options(options: argparse.Namespace) -> TeacherConfig:
    """Config from the options of `add_teacher_options`; ValueError if they make none."""
    return TeacherConfig(
        url=options.teacher,
        model=options.model,
        price_in=options.price_in,
        price_out=options.price_out,
        temperature=options.temperature,
    )
