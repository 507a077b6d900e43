"""schemathesis asks every HTTP route for what its schema allows, and for what it does not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance
from server_process import ServerProcess, running_server
from tiny_bundle import make_observation, save_bundle

from contracts import wire

REQUEST = wire.pack(wire.observation_to_message(make_observation()))

schemathesis.openapi.media_type(
    "application/msgpack",
    st.binary(max_size=200)
    | st.just(REQUEST)
    | st.integers(0, len(REQUEST)).map(lambda size: REQUEST[:size])
    | st.dictionaries(
        st.sampled_from(["instruction", "images", "state", "options", "previous", "deadline"]),
        st.none() | st.integers(-5, 5) | st.text(max_size=5),
    ).map(wire.pack),
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    bundle = save_bundle(tmp_path_factory.mktemp("bundles") / "tiny")
    arguments = ("--bundle", str(bundle), "--port", "0", "--requests-per-second", "0")
    with running_server(*arguments) as process:
        yield process
        assert process.process.poll() is None, process.errors()
        assert "Traceback" not in process.errors()


@pytest.fixture(scope="module")
def schema(server: ServerProcess) -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_url(f"{server.http}/openapi.json")


ROUTES = [
    ("GET", "/"),
    ("GET", "/healthz"),
    ("GET", "/metadata"),
    ("GET", "/metrics"),
    ("GET", "/readyz"),
    ("POST", "/bundle"),
    ("POST", "/infer"),
]


def test_every_route_is_here(schema: schemathesis.BaseSchema) -> None:
    operations = [found.ok() for found in schema.get_all_operations()]
    assert sorted((op.method.upper(), op.path) for op in operations) == sorted(ROUTES)


@pytest.mark.parametrize(
    "mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["valid", "invalid"]
)
@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_route_keeps_what_its_schema_says(
    schema: schemathesis.BaseSchema, method: str, path: str, mode: GenerationMode
) -> None:
    cases = schema[path][method].as_strategy(generation_mode=mode)

    @settings(
        max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(cases)
    def check(case: schemathesis.Case) -> None:
        # A schema cannot say which names are those of bundles, nor which bytes are an observation.
        case.call_and_validate(excluded_checks=[positive_data_acceptance])

    try:
        check()
    except Unsatisfiable:
        # To a schema, nothing can be wrong about a route without input or one that takes any bytes.
        assert mode is GenerationMode.NEGATIVE
        assert path != "/bundle"
