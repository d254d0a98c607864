"""Requests of all kinds that the OpenAPI description allows, and such that it does not: every answer is one that it describes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode, checks
from support.gateways import BEARER, TOKEN, RunningGateway, Workspaces, running_gateway
from support.scripted_models import AnyModel

from bgpy.gateway import create_app
from bgpy.gateway.openapi import make_openapi

#: Bad data is refused with status 200 on the commands' endpoints, as the clients of Pserve expect.
ENVELOPED = [checks.negative_data_rejection]
#: Not every text is the JSON that the description says it is.
OPAQUE = {"/v2/repository/models/{name}/load": [checks.positive_data_acceptance]}
#: The files of the page are described by the page.
DOORS = [door for door in create_app(token=TOKEN, port=1).doors if not door.summary.startswith("Of the page")]
SCHEMA = schemathesis.openapi.from_dict(make_openapi(DOORS))


@SCHEMA.auth()
class Login:
    """Log in, but where a check looks whether that is asked for."""

    def get(self, case: Any, context: schemathesis.AuthContext) -> str:
        return BEARER["authorization"]

    def set(self, case: Any, data: str, context: schemathesis.AuthContext) -> None:
        case.headers["Authorization"] = data


OPERATIONS: list[Any] = [operation.ok() for operation in SCHEMA.get_all_operations()]  # type: ignore[union-attr]
CASES = [
    pytest.param(operation, mode, id=f"{operation.label} {word}")
    for operation in OPERATIONS
    for word, mode in (("good", GenerationMode.POSITIVE), ("bad", GenerationMode.NEGATIVE))
    if (mode is GenerationMode.POSITIVE or operation.body.items) and "{version}" not in operation.path
]


@pytest.fixture
def gateway(workspaces: Workspaces) -> Iterator[RunningGateway]:
    AnyModel(workspaces)
    workspaces.answers["watch"] = lambda args: {"request_result": True, "result": {"event": "end", "number": 1}}
    for name in ("start_request", "kill_request", "get_requests", "query_module"):
        workspaces.answers[name] = lambda args: {"request_result": True, "result": {"status": "Ok", "request": 1}}
    workspaces.answers["watch_requests"] = lambda args: {"request_result": True, "result": {"event": "alive", "number": 1}}
    workspaces.answers["recall_requests"] = lambda args: {"request_result": True, "result": {"1": {"status": "Ok"}}}
    with running_gateway(workspaces) as running:
        yield running


@pytest.mark.parametrize(("operation", "mode"), CASES)
def test_every_answer_is_as_described(gateway: RunningGateway, operation: Any, mode: GenerationMode) -> None:
    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
    def check(case: Any) -> None:
        case.call_and_validate(base_url=gateway.url, excluded_checks=ENVELOPED + OPAQUE.get(operation.path, []))

    check()


def test_the_description_that_is_served_is_the_one_that_is_tested(gateway: RunningGateway) -> None:
    with gateway.client() as http:
        assert http.get("/openapi.json").json() == SCHEMA.raw_schema
