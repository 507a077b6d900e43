"""The doors: tokens, origins and rates."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_server.access import REMEMBERED_CLIENTS, Access, AccessLimits, RateLimit
from policy_server.refusal import PolicyRefused, Reason

LOCAL = {"host": "127.0.0.1:8000"}


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


def refusal(access: Access, headers: dict[str, str]) -> Reason | None:
    try:
        access.check(headers)
    except PolicyRefused as refused:
        return refused.reason_code
    return None


@pytest.mark.parametrize(
    "sent", ["Api-Key secret", "api-key secret", basic("robot:secret"), basic(":secret")]
)
def test_the_token_opens(sent: str) -> None:
    assert refusal(Access("secret"), LOCAL | {"authorization": sent}) is None


@pytest.mark.parametrize(
    "sent",
    [None, "", "secret", "Api-Key", "Api-Key secre", "Api-Key secrett", "Api-Key SECRET"]
    + ["Bearer secret", basic("secret"), "Basic %%%", "Basic \xff", "Api-Key \xe9"],
)
def test_anything_else_does_not(sent: str | None) -> None:
    headers = LOCAL | ({} if sent is None else {"authorization": sent})
    assert refusal(Access("secret"), headers) is Reason.UNAUTHORISED


@given(st.text(max_size=30), st.text(max_size=30))
def test_any_header_gets_a_reason_at_most(sent: str, origin: str) -> None:
    headers = LOCAL | {"authorization": sent, "origin": origin}
    assert refusal(Access("secret"), headers) in (Reason.UNAUTHORISED, Reason.FORBIDDEN)


@pytest.mark.parametrize(
    ("origin", "host", "token", "allowed"),
    [
        (None, "robot.lab:8000", None, True),  # no browser
        ("http://127.0.0.1:8000", "127.0.0.1:8000", None, True),
        ("http://localhost:8000", "localhost:8000", None, True),
        ("http://evil.example", "127.0.0.1:8000", None, False),
        ("null", "127.0.0.1:8000", None, False),
        ("http://127.0.0.1:9000", "127.0.0.1:8000", None, False),
        ("http://evil.example:8000", "evil.example:8000", None, False),  # DNS made to point here
        ("https://policy.lab", "policy.lab", "secret", True),
        ("https://evil.example", "policy.lab", "secret", False),
    ],
)
def test_pages_of_other_sites_stay_outside(
    origin: str | None, host: str, token: str | None, allowed: bool
) -> None:
    headers = {"host": host, "authorization": "Api-Key secret"}
    headers |= {} if origin is None else {"origin": origin}
    assert refusal(Access(token), headers) is (None if allowed else Reason.FORBIDDEN)


@pytest.mark.parametrize(
    ("client", "token", "allowed"),
    [
        ("127.0.0.1", None, True),
        ("::1", None, True),
        ("10.0.0.7", None, False),
        ("10.0.0.7", "secret", True),
        ("unknown", None, False),
    ],
)
def test_the_bundle_is_changed_from_here_or_with_the_token(
    client: str, token: str | None, allowed: bool
) -> None:
    headers = LOCAL | {"authorization": "Api-Key secret"}
    if allowed:
        Access(token).check_change(headers, client)
    else:
        with pytest.raises(PolicyRefused, match="FORBIDDEN"):
            Access(token).check_change(headers, client)


def asks(rate: RateLimit, client: str, moments: list[float]) -> int:
    """How many of the requests at these moments were let through."""
    passed = 0
    for moment in moments:
        try:
            rate.check(client, moment)
            passed += 1
        except PolicyRefused as refused:
            assert refused.reason_code is Reason.RATE_LIMITED
    return passed


@given(
    st.lists(st.floats(0.0, 100.0), min_size=1, max_size=200).map(sorted),
    st.floats(0.5, 50.0),
    st.integers(1, 20),
)
def test_no_more_pass_than_the_rate_and_the_burst(
    moments: list[float], rate: float, burst: int
) -> None:
    limit = RateLimit(AccessLimits(requests_per_second=rate, burst=burst))
    passed = asks(limit, "a", moments)
    assert passed <= burst + rate * (moments[-1] - moments[0]) + 1e-6
    assert passed >= min(burst, len(moments))


def test_clients_have_buckets_of_their_own_and_zero_means_any_rate() -> None:
    limit = RateLimit(AccessLimits(requests_per_second=1.0, burst=2))
    assert [asks(limit, name, [0.0] * 5) for name in "ab"] == [2, 2]
    assert asks(RateLimit(AccessLimits(requests_per_second=0)), "a", [0.0] * 5000) == 5000


def test_many_addresses_do_not_fill_the_memory() -> None:
    limit = RateLimit(AccessLimits())
    for number in range(3 * REMEMBERED_CLIENTS):
        limit.check(str(number), 0.0)
    assert len(limit._buckets) == REMEMBERED_CLIENTS


@pytest.mark.parametrize(
    "wrong",
    [{"max_connections": 0}, {"requests_per_second": -1.0}, {"burst": 0}]
    + [{"requests_per_second": float("nan")}, {"requests_per_second": float("inf")}],
)
def test_limits_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        AccessLimits(**wrong)
