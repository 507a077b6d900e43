"""The teacher's client against a real HTTP server."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_server import chat_server, completion
from PIL import Image

from training.jsonl_record import Usage
from training.teacher import (
    API_KEY_VARIABLE,
    PictureError,
    Teacher,
    TeacherConfig,
    TeacherError,
    TeacherRefused,
    data_url,
)


def config(url: str, **fields: Any) -> TeacherConfig:
    return TeacherConfig(url=url, model="teacher-1", timeout=30.0, **fields)


def test_a_question_with_pictures_reaches_the_endpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(API_KEY_VARIABLE, "secret-key")
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    path = tmp_path / "a.jpg"
    Image.fromarray(pixels).save(path)
    with chat_server(lambda *_: completion("yes")) as chat, Teacher(config(chat.url)) as teacher:
        assert teacher.ask("Is it?", [pixels, path], system="Be brief.", json_object=True) == "yes"
    (body,), (headers,) = chat.bodies, chat.headers
    assert headers["path"] == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer secret-key"
    assert body["model"] == "teacher-1"
    assert body["response_format"] == {"type": "json_object"}
    system, user = body["messages"]
    assert system == {"role": "system", "content": "Be brief."}
    png, jpeg, text = user["content"]
    assert text == {"type": "text", "text": "Is it?"}
    assert jpeg["image_url"]["url"].startswith("data:image/jpeg;base64,")
    assert base64.b64decode(jpeg["image_url"]["url"].partition(",")[2]) == path.read_bytes()
    content = base64.b64decode(png["image_url"]["url"].removeprefix("data:image/png;base64,"))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(content))), pixels)


def test_without_a_key_none_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(API_KEY_VARIABLE, raising=False)
    with chat_server(lambda *_: completion("yes")) as chat, Teacher(config(chat.url)) as teacher:
        teacher.ask("?")
    assert "Authorization" not in chat.headers[0]


def test_retries_wait_longer_each_time_and_as_long_as_asked() -> None:
    replies = [
        (500, {}, {}),
        (429, {"Retry-After": "7"}, {}),
        (503, {"Retry-After": "9999"}, {}),
        (502, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, {}),
        completion("at last"),
    ]
    waits: list[float] = []
    with (
        chat_server(lambda _, i: replies[i]) as chat,
        Teacher(config(chat.url, backoff=1.5), sleep=waits.append) as teacher,
    ):
        assert teacher.ask("?") == "at last"
        assert teacher.usage.requests == 1
    assert waits == [1.5, 7.0, 60.0, 12.0]


def test_retries_are_bounded() -> None:
    waits: list[float] = []
    with (
        chat_server(lambda *_: (500, {}, {"error": "broken"})) as chat,
        Teacher(config(chat.url, attempts=3), sleep=waits.append) as teacher,
        pytest.raises(TeacherError, match=r"3 attempts, at last HTTP 500 .*broken"),
    ):
        teacher.ask("?")
    assert len(chat.bodies) == 3
    assert len(waits) == 2


def test_an_endpoint_that_is_not_there_is_retried_then_named() -> None:
    with chat_server(lambda *_: completion("")) as chat:
        gone = chat.url
    waits: list[float] = []
    with (
        Teacher(config(gone, attempts=2), sleep=waits.append) as teacher,
        pytest.raises(TeacherError, match="ConnectError"),
    ):
        teacher.ask("?")
    assert len(waits) == 1


@pytest.mark.parametrize(
    ("status", "kind", "advice"),
    [
        (400, TeacherRefused, "HTTP 400"),
        (413, TeacherRefused, "HTTP 413"),
        (401, TeacherError, f"set \\${API_KEY_VARIABLE}"),
        (404, TeacherError, "model's name 'teacher-1'"),
        (302, TeacherError, "check the address"),
    ],
)
def test_what_will_not_get_better_is_not_retried_and_the_key_is_kept_secret(
    status: int, kind: type, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(API_KEY_VARIABLE, "secret-key")
    with (
        chat_server(lambda *_: (status, {}, {"error": "bad key secret-key"})) as chat,
        Teacher(config(chat.url)) as teacher,
        pytest.raises(TeacherError, match=advice) as caught,
    ):
        teacher.ask("?")
    assert type(caught.value) is kind
    assert "secret-key" not in str(caught.value)
    assert len(chat.bodies) == 1


@pytest.mark.parametrize(
    "content",
    [b"<html>", {}, {"choices": []}, [], {"choices": [{"message": {"content": [1]}}]}],
)
def test_an_answer_that_is_no_completion_is_an_error(content: Any) -> None:
    with (
        chat_server(lambda *_: (200, {}, content)) as chat,
        Teacher(config(chat.url)) as teacher,
        pytest.raises(TeacherError),
    ):
        teacher.ask("?")


def test_tokens_and_cost_add_up() -> None:
    replies = [
        completion("a", 1_000_000, 200_000),
        completion(None, 500_000, 0),
        (200, {}, {"choices": [{"message": {"content": "c"}}]}),
    ]
    with (
        chat_server(lambda _, i: replies[i]) as chat,
        Teacher(config(chat.url, price_in=1.25, price_out=10.0)) as teacher,
    ):
        assert [teacher.ask("?") for _ in range(3)] == ["a", "", "c"]
        usage = teacher.usage
    assert usage == Usage(3, 1_500_000, 200_000, pytest.approx(3.875), unmetered=1)
    assert str(usage) == "3 requests, 1,500,000 + 200,000 tokens, at least $3.8750"
    assert usage - Usage(1, 1_000_000) == Usage(2, 500_000, 200_000, usage.cost, 1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"url": "https://me:pass@host/v1"}, "holds a user or password"),
        ({"url": "host/v1"}, "must look like"),
        ({"url": "file:///etc/passwd"}, "must look like"),
        ({"model": ""}, "is empty"),
        ({"attempts": 0}, "at least 1"),
        ({"timeout": 0.0}, "above 0"),
        ({"price_out": -1.0}, "must not be negative"),
    ],
)
def test_bad_configs_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        TeacherConfig(**{"url": "https://host/v1", "model": "m", **fields})
    assert "pass@" not in str(caught.value)


def test_pictures_that_do_not_decode_are_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(broken)
    broken.write_bytes(broken.read_bytes()[:600])
    for path in (broken, tmp_path / "missing.png", Path(__file__)):
        with pytest.raises(PictureError, match=path.name):
            data_url(path)


def test_other_formats_are_sent_as_png(tmp_path: Path) -> None:
    path = tmp_path / "a.bmp"
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(path)
    assert data_url(path).startswith("data:image/png;base64,")
