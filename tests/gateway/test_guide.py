"""The API guide and the OpenAPI description: made from the doors, so they say what there is."""

from __future__ import annotations

from typing import Any

import pytest
from support.gateways import TOKEN

from bgpy.gateway import create_app
from bgpy.gateway.doors import Door
from bgpy.gateway.guide import make_guide
from bgpy.gateway.openapi import make_openapi
from bgpy.tasks.schema import REQUIRED, Command, Field
from bgpy.tasks.tensorflow.commands import COMMANDS

#: Pserve's guide, word for word but for its key "requset".
ANSWER = {"request_result": "Request result"}
NAME = "Workspace name(Necessary field)"
INTERVAL = "Time interval for checking job(Default:1)"
WAIT = "Wait time for job result(Default:1)"
JOB = {"job": "Job number", "finish": "Complete status for job", "result": "Executed job result", "time": "Response time"}
PSERVE: dict[str, tuple[str, Any, Any]] = {
    "/": ("API guide", None, "API guide"),
    "/json_test/": ("Json reflector", "Input json", "Input json"),
    "/create/": ("Server on(Default:Created)", None, "Server on result"),
    "/destroy/": ("Server off", None, "Server off result"),
    "/create_workspace/": (
        "Create workspace",
        {
            "name": "Workspace name(Default:Random)",
            "type": "0 is multiprocess, 1 is thread(Default:0)",
            "time_interval": INTERVAL,
        },
        "Created workspace name",
    ),
    "/destroy_workspace/": (
        "Destroy workspace",
        {"name": "Workspace name(Default:All workspace)"},
        "Workspace destuction result",
    ),
    "/get_workspace/": ("Get workspace name", None, "Created workspace name"),
    "/get_status/": ("Get workspace status", {"name": NAME}, "Workspace status"),
    "/push_job/": (
        "Push job by python file or script",
        {
            "name": NAME,
            "job": "File path or script(Necessary field)",
            "type": "0 is File, 1 is Script(Default:0)",
            "clear": "Clear memory before running job(Defalut:False)",
            "timeout": WAIT,
            "time_interval": INTERVAL,
        },
        {**JOB, "variable": {"Variable name": "Variable value"}},
    ),
    "/clear/": ("Push job for clear memory", {"name": NAME, "timeout": WAIT, "time_interval": INTERVAL}, JOB),
    "/get_job/": ("Get residual job count", {"name": NAME}, "Residual job count"),
    "/get_finish/": (
        "Check whether job is executing",
        {"name": NAME, "job": "Job number(Default:Last job number)"},
        "Complete status for job",
    ),
    "/get_variable/": (
        "Get variable by executed jobs",
        {"name": NAME, "variable": "Variable name(Default:All variable)"},
        {"Variable name": "Variable value"},
    ),
    "/get_result/": (
        "Get result for executed job",
        {"name": NAME, "job": "Job number(Default:All result)"},
        "Executed job result",
    ),
}
#: What TFserve's guide has beside, word for word but for its key "requset".
TFSERVE: dict[str, tuple[str, Any, Any]] = {
    "/deploy/": (
        "Push job for model deployment",
        {
            "name": NAME,
            "path": "Model path(Necessary field)",
            "device": "Device name(Default:'/cpu:0')",
            "timeout": WAIT,
            "time_interval": INTERVAL,
        },
        JOB,
    ),
    "/update/": (
        "Push job for update of deployed model",
        {"name": NAME, "path": "Model path(Necessary field)", "timeout": WAIT, "time_interval": INTERVAL},
        JOB,
    ),
    "/undeploy/": (
        "Push job for undeployment of deployed model",
        {"name": NAME, "timeout": WAIT, "time_interval": INTERVAL},
        JOB,
    ),
    "/predict/": (
        "Push job for prediction of deployed model",
        {
            "name": NAME,
            "fetches": "List or string by collection key or tensor name'(Necessary field)",
            "feed_dict": "Dictionary by collection key or tensor name & feeding data(Default:None)",
            "timeout": WAIT,
            "time_interval": INTERVAL,
        },
        JOB,
    ),
}
ORIGINALS = {**PSERVE, **TFSERVE}


@pytest.fixture
def doors() -> tuple[Door, ...]:
    return create_app(token=TOKEN).table.doors


@pytest.mark.parametrize("path", ORIGINALS)
def test_the_guide_says_what_those_of_pserve_and_tfserve_say(path: str, doors: tuple[Door, ...]) -> None:
    context, request, result = ORIGINALS[path]
    entry = make_guide(doors)[path]
    assert set(entry) == {"context", "json"}
    assert set(entry["json"]) == {"request", "response"}
    assert entry["context"] == context
    assert entry["json"]["response"] == {**ANSWER, "result": result}
    if isinstance(request, dict):  # fields that Pserve lacks come beside
        assert entry["json"]["request"].items() >= request.items()
    else:
        assert entry["json"]["request"] == request


def test_the_guide_has_every_post_there_is(doors: tuple[Door, ...]) -> None:
    paths = set(make_guide(doors))
    assert {f"/{command.name}/" for command in COMMANDS} <= paths
    assert paths == {f"{door.path.rstrip('/')}/" for door in doors if door.method == "POST"}
    assert list(make_guide(doors))[: len(PSERVE)] == list(PSERVE)
    assert [path for path in make_guide(doors) if path in TFSERVE] == list(TFSERVE)


def test_a_field_of_our_own_is_described_in_the_manner_of_pserve() -> None:
    fields = (
        Field("a", ("string",), REQUIRED, "A thing."),
        Field("b", ("boolean",), True, "Another."),
        Field("c", ("null",), None, "By default nothing."),
        Field("encoding", ("string",), "objects", "How."),
    )
    door = Door("/x", "POST", None, "", command=Command("x", "Do x.", fields, "true."))  # type: ignore[arg-type]
    assert make_guide([door]) == {
        "/x/": {
            "context": "Do x",
            "json": {
                "request": {"a": "A thing(Necessary field)", "b": "Another(Default:true)", "c": "By default nothing"},
                "response": {"request_result": "Request result", "result": "true"},
            },
        }
    }


def test_the_description_has_every_door_but_websockets(doors: tuple[Door, ...]) -> None:
    described = make_openapi(doors)
    operations = {(path.rstrip("/") or "/", method.upper()) for path, methods in described["paths"].items() for method in methods}
    assert operations == {(door.path, door.method) for door in doors if door.method != "WEBSOCKET"}
    assert described["openapi"] == "3.1.0"
    ids = [operation["operationId"] for methods in described["paths"].values() for operation in methods.values()]
    assert len(set(ids)) == len(ids)


def test_the_description_has_every_field_with_its_rules(doors: tuple[Door, ...]) -> None:
    schema = make_openapi(doors)["paths"]["/push_job/"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert schema["required"] == ["name", "job"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["timeout"] == {
        "description": "Seconds to wait for the job's end.",
        "type": "number",
        "minimum": 0,
        "default": 1,
    }
    assert schema["properties"]["type"]["enum"] == [0, 1, "file", "script"]
    assert schema["properties"]["variables"]["items"] == {"type": "string"}
    assert "encoding" not in schema["properties"]


def test_the_description_says_who_gets_in(doors: tuple[Door, ...]) -> None:
    paths = make_openapi(doors, "/sub")["paths"]
    assert paths["/healthz"]["get"]["security"] == []
    assert paths["/metrics"]["get"]["security"] == [{"bearer": []}, {"cookie": []}]
    assert paths["/"]["get"]["security"][0] == {}
    assert make_openapi(doors, "/sub")["servers"] == [{"url": "/sub"}]
