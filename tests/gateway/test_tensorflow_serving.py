"""The REST API of TensorFlow Serving: paths, texts and statuses; what is in the bodies passes through."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from support.gateways import BEARER, TOKEN, Alien, InMemory, Workspaces, running_gateway
from support.scripted_models import ScriptedModels, description, inferred, job
from support.servers import running_server, tasks

from bgpy.gateway import Limits, create_app

BODY = b'{"instances": [[1.0, NaN, "not read here"]]}'
PREDICT = "/v1/models/half:predict"


@pytest.fixture(autouse=True)
def models(workspaces: Workspaces) -> ScriptedModels:
    return ScriptedModels(workspaces, half=description("half"), empty=None)


def test_a_request_is_one_message_with_the_body_as_it_came(http: httpx.Client, models: ScriptedModels) -> None:
    for verb in ("predict", "classify", "regress"):
        for path, version in (("half", None), ("half/versions/2", "2")):
            models.jobs.append(inferred(b'{"predictions"', b": [1.0]}"))
            answer = http.post(f"/v1/models/{path}:{verb}", content=BODY)
            assert (answer.status_code, answer.content) == (200, b'{"predictions": [1.0]}')
            assert answer.headers["content-type"] == "application/json"
            assert "inference-header-content-length" not in answer.headers
            assert models.asked.pop() == {
                "command": "infer",
                "name": "half",
                "protocol": "v1",
                "verb": verb,
                "body": BODY,
                "version": version,
                "header_length": None,
                "timeout": 300.0,
            }
            assert models.asked == []


def test_paths_have_no_case_and_may_end_with_a_slash(http: httpx.Client) -> None:
    assert http.post("/V1/Models/half:PREDICT", content=BODY).status_code == 200
    assert http.get("/v1/models/half/").status_code == 200
    assert http.get("/v1/models/half/METADATA").status_code == 200


def test_a_name_is_decoded_once_whatever_is_in_it(http: httpx.Client, models: ScriptedModels) -> None:
    for name in ("a b", "größe", "a/b:c", "100%", "a%2Fb", "metadata", "versions", "a?b#c", "end/"):
        models.deployed[name] = description(name)
        path = f"/v1/models/{''.join(f'%{byte:02X}' for byte in name.encode())}"
        assert http.post(f"{path}:predict", content=BODY).status_code == 200
        assert http.get(f"{path}/metadata").json()["model_spec"]["name"] == name
        assert [message["name"] for message in models.asked[-2:]] == [name, name]


def test_a_large_body_is_sent_in_its_parts(models: ScriptedModels, workspaces: Workspaces) -> None:
    parts = (b"x" * 50_000, b"", b"y" * 50_000)
    models.jobs += [inferred(*parts), inferred(*parts)]

    async def ask(port: int) -> None:
        app = create_app(port=port, token=TOKEN)
        asking = InMemory(app)
        assert (await asking.http("POST", PREDICT, BEARER, BODY))[2] == b"".join(parts)
        sent: list[Any] = []
        received = iter([{"type": "http.request", "body": BODY}])

        async def receive() -> Any:
            return next(received)

        async def send(message: Any) -> None:
            sent.append(message)

        scope = asking._scope("http", PREDICT, BEARER, "http") | {"method": "POST"}
        await app(scope, receive, send)
        assert [len(message["body"]) for message in sent[1:]] == [50_000, 0, 50_000, 0]
        assert [message.get("more_body", False) for message in sent[1:]] == [True, True, True, False]
        assert (b"content-length", b"100000") in sent[0]["headers"]
        await app.close()

    with running_server(tasks(workspaces.run), token=TOKEN) as served:
        asyncio.run(ask(served.port))


def test_a_large_body_comes_whole_over_http(http: httpx.Client, models: ScriptedModels) -> None:
    parts = [bytes([number]) * 300_000 for number in range(5)]
    models.jobs.append(inferred(*parts))
    body = bytes(1_000_000)
    assert http.post(PREDICT, content=body).content == b"".join(parts)
    assert models.asked[0]["body"] == body


@pytest.mark.parametrize("mounted", ["", "/lab", "/a/deep place"])
def test_names_are_found_wherever_the_app_is_mounted(models: ScriptedModels, workspaces: Workspaces, mounted: str) -> None:
    models.deployed["a/b"] = description("a/b")

    async def ask(port: int) -> None:
        app = create_app(port=port, token=TOKEN)
        scope = InMemory(app)._scope("http", "", BEARER, "http")
        scope |= {"method": "GET", "root_path": mounted, "path": f"{mounted}/v1/models/a/b"}
        scope["raw_path"] = f"{mounted.replace(' ', '%20')}/v1/models/a%2Fb".encode()
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        await app(scope, receive, send)
        assert sent[0]["status"] == 200
        await app.close()

    with running_server(tasks(workspaces.run), token=TOKEN) as served:
        asyncio.run(ask(served.port))
    assert [message["name"] for message in models.asked] == ["a/b"]


def test_the_status_has_all_versions_the_newest_first(http: httpx.Client) -> None:
    fine = {"error_code": "OK", "error_message": ""}
    newest, oldest = ({"version": "2", "state": "AVAILABLE", "status": fine}, {"version": "1", "state": "END", "status": fine})
    assert http.get("/v1/models/half").json() == {"model_version_status": [newest, oldest]}
    assert http.get("/v1/models/half/versions/2").json() == {"model_version_status": [newest]}
    assert http.get("/v1/models/half/versions/1").json() == {"model_version_status": [oldest]}
    assert http.head("/v1/models/half").status_code == 200


def test_the_metadata_has_the_signatures(http: httpx.Client) -> None:
    for path in ("/v1/models/half/metadata", "/v1/models/half/versions/2/metadata"):
        told = http.get(path).json()
        assert told["model_spec"] == {"name": "half", "signature_name": "", "version": "2"}
        signature = told["metadata"]["signature_def"]["signature_def"]["serving_default"]
        assert signature["inputs"]["x"]["dtype"] == "DT_FLOAT"
        assert signature["inputs"]["x"]["tensor_shape"]["dim"] == [{"size": "-1", "name": ""}, {"size": "3", "name": ""}]


WRONG = [
    ("GET", "/v1/models", 400, "Missing model name in request."),
    ("GET", "/v1/models/versions/3", 400, "Missing model name in request."),
    ("GET", "/v1", 400, "Malformed request: GET /v1"),
    ("GET", "/v1/models/half:predict", 400, "Malformed request: GET /v1/models/half:predict"),
    ("GET", "/v1/models/half/more", 400, "Malformed request: GET /v1/models/half/more"),
    ("GET", "/v1/models/half/versions/two", 400, "Malformed request: GET /v1/models/half/versions/two"),
    ("GET", "/v1/models/half/versions/٣", 400, "Malformed request: GET /v1/models/half/versions/%D9%A3"),
    ("POST", "/v1/models/half", 400, "Malformed request: POST /v1/models/half"),
    ("POST", "/v1/models/half:generate", 400, "Malformed request: POST /v1/models/half:generate"),
    ("POST", "/v1/models/a:b:predict", 400, "Malformed request: POST /v1/models/a:b:predict"),
    ("POST", "/v1/models/half/labels/stable:predict", 400, "Unrecognized servable version label: stable"),
    ("GET", "/v1/models/half/labels/a%20b", 400, "Unrecognized servable version label: a b"),
    ("GET", f"/v1/models/half/versions/{'9' * 20}", 400, f"Failed to convert version: {'9' * 20} to numeric."),
    ("GET", "/v1/models/nope", 404, "Could not find any versions of model nope"),
    ("GET", "/v1/models/empty", 404, "Could not find any versions of model empty"),
    ("GET", "/v1/models/half/versions/3", 404, "Could not find version 3 of model half"),
    ("GET", "/v1/models/nope/metadata", 404, "Servable not found for request: Latest(nope)"),
    ("GET", "/v1/models/half/versions/1/metadata", 404, "Servable not found for request: Specific(half, 1)"),
    ("POST", "/v1/models/nope:predict", 404, "Servable not found for request: Latest(nope)"),
    ("POST", "/v1/models/nope/versions/3:predict", 404, "Servable not found for request: Specific(nope, 3)"),
    ("DELETE", "/v1/models/half", 405, "The method here is GET, HEAD, not DELETE"),
    ("PUT", "/v1/models/half:predict", 405, "The method here is POST, not PUT"),
    ("PUT", "/v1/nothing", 400, "Malformed request: PUT /v1/nothing"),
]


def test_what_is_wrong_is_said_in_the_protocols_words(http: httpx.Client) -> None:
    for method, path, status, text in WRONG:
        answer = http.request(method, path, content=BODY if method == "POST" else None)
        assert (answer.status_code, answer.json()) == (status, {"error": text}), (method, path)
        assert answer.headers["content-type"] == "application/json"
        assert ("allow" in answer.headers) == (status == 405)


ENDS = [
    (
        job("failed", "bgpy.errors.ModelInputError", "Missing 'inputs' or 'instances' key"),
        400,
        "Missing 'inputs' or 'instances' key",
    ),
    (job("failed", "bgpy.errors.ModelNotFoundError", "gone"), 404, "Servable not found for request: Latest(half)"),
    (job("failed", "bgpy.errors.ModelError", "no"), 500, "no"),
    (job("failed", "tensorflow.python.framework.errors_impl.InvalidArgumentError", "shapes"), 400, "shapes"),
    (job("failed", "tensorflow.python.framework.errors_impl.NotFoundError", "no table"), 404, "no table"),
    (job("failed", "tensorflow.python.framework.errors_impl.ResourceExhaustedError", "memory"), 429, "memory"),
    (job("failed", "tensorflow.python.framework.errors_impl.UnimplementedError", "op"), 501, "op"),
    (job("failed", "tensorflow.python.framework.errors_impl.UnavailableError", "later"), 503, "later"),
    (job("failed", "tensorflow.python.framework.errors_impl.DataLossError", "lost"), 500, "lost"),
    (job("failed", "mine.NotFoundError", "x"), 500, "mine.NotFoundError: x"),
    (job("failed", "builtins.ValueError", "x"), 500, "builtins.ValueError: x"),
    (job("cancelled"), 499, "The request was not carried out: job 9 is cancelled."),
    (job("interrupted", "builtins.KeyboardInterrupt"), 499, "The request was not carried out: job 9 is interrupted."),
    (job("killed"), 500, "The request was not carried out: job 9 is killed."),
    (job("timed_out"), 504, "The request was not carried out: job 9 is timed out."),
    (job("crashed", "", "signal SIGSEGV"), 503, "The request was not carried out: job 9 is crashed. signal SIGSEGV"),
    (job("aborted"), 503, "The request was not carried out: job 9 is aborted."),
    (job("running"), 504, "After 0.25 s the request has not ended; it goes on as job 9"),
    (job("done", result=True, value={"content_type": "text/plain"}), 500, "The server has answered without a body"),
]


def test_the_end_of_a_job_is_a_status(http: httpx.Client, models: ScriptedModels) -> None:
    for end, status, text in ENDS:
        models.jobs.append(end)
        answer = http.post(PREDICT, content=BODY)
        assert (answer.status_code, answer.json()) == (status, {"error": text}), end


REFUSED: list[tuple[dict[str, Any], int, str]] = [
    ({"request_result": False, "result": "Wrong.", "field": "body", "error": "RefusedError"}, 400, "Wrong."),
    ({"request_result": False, "result": "Full.", "field": None, "error": "OverloadedError"}, 503, "Full."),
    ({"request_result": False, "result": False}, 503, "The service is switched off; /create switches it on"),
    ({"request_result": False, "result": "There is no command 'infer'", "field": "command"}, 501, "The server has no models"),
    ({"count": 3}, 501, "The server has no models"),
]


def test_a_refusal_of_the_server_is_a_status(http: httpx.Client, workspaces: Workspaces) -> None:
    responses = iter([response for response, _, _ in REFUSED])
    workspaces.answers["infer"] = lambda message: next(responses)
    for response, status, text in REFUSED:
        answer = http.post(PREDICT, content=BODY)
        assert answer.status_code == status, response
        assert answer.json()["error"].startswith(text)
        assert list(answer.json()) == ["error"]


def test_a_task_that_raises_is_500(http: httpx.Client, workspaces: Workspaces) -> None:
    def fail(message: dict[str, Any]) -> dict[str, Any]:
        raise KeyError("x")

    workspaces.answers["infer"] = fail
    answer = http.post(PREDICT, content=BODY)
    assert (answer.status_code, answer.json()) == (500, {"error": "A task raised KeyError: 'x'"})


def test_an_answer_that_cannot_be_read_is_500(http: httpx.Client, workspaces: Workspaces) -> None:
    workspaces.answers["infer"] = lambda message: {"request_result": True, "result": Alien()}
    answer = http.post(PREDICT, content=BODY)
    assert (answer.status_code, list(answer.json())) == (500, ["error"])


def test_a_server_that_is_not_there_is_503_with_a_time_to_come_again() -> None:
    with running_server() as served:
        port = served.port

    async def ask() -> None:
        app = create_app(port=port, token=TOKEN)
        for method, path in (("GET", "/v1/models/half"), ("POST", PREDICT), ("GET", "/v2/health/ready")):
            status, headers, body = await InMemory(app).http(method, path, BEARER, BODY)
            assert (status, headers["retry-after"]) == (503, "1")
            assert body.startswith(b'{"error":')
        await app.close()

    asyncio.run(ask())


def test_a_body_may_be_compressed(http: httpx.Client, models: ScriptedModels) -> None:
    compressed: dict[str, Callable[[bytes], bytes]] = {
        "gzip": gzip.compress,
        "x-gzip": gzip.compress,
        "deflate": zlib.compress,
        "GZIP": gzip.compress,
        "identity": bytes,
    }
    for encoding, pack in compressed.items():
        assert http.post(PREDICT, content=pack(BODY), headers={"content-encoding": encoding}).status_code == 200
        assert models.asked[-1]["body"] == BODY


BROKEN = {
    "none": b"not compressed",
    "cut": gzip.compress(BODY)[:-9],
    "empty": b"",
    "two": gzip.compress(BODY) * 2,
    "sum": gzip.compress(BODY)[:-8] + bytes(8),
}


def test_a_compressed_body_that_is_broken_is_400(http: httpx.Client, models: ScriptedModels) -> None:
    for kind, body in BROKEN.items():
        answer = http.post(PREDICT, content=body, headers={"content-encoding": "gzip"})
        assert (answer.status_code, list(answer.json())) == (400, ["error"]), kind
    assert models.asked == []


def test_an_unknown_encoding_is_415_and_says_which_there_are(http: httpx.Client) -> None:
    for encoding in ("br", "gzip, gzip"):
        answer = http.post(PREDICT, content=b"x", headers={"content-encoding": encoding})
        assert (answer.status_code, answer.headers["accept-encoding"]) == (415, "gzip, deflate")
        assert list(answer.json()) == ["error"]


def test_the_limit_of_a_body_holds_for_what_comes_out_of_it(models: ScriptedModels, workspaces: Workspaces) -> None:
    with running_gateway(workspaces, limits=Limits(max_body_size=100_000)) as gateway, gateway.client() as http:
        for size, status in ((100_000, 200), (100_001, 413), (50_000_000, 413)):
            for encoding, pack in (("gzip", gzip.compress), ("deflate", zlib.compress)):
                answer = http.post(PREDICT, content=pack(bytes(size)), headers={"content-encoding": encoding})
                assert answer.status_code == status
        assert answer.json() == {"error": "The body is too large"}
        assert http.post(PREDICT, content=bytes(100_001)).json() == {"error": "The body is too large"}
    assert [len(message["body"]) for message in models.asked] == [100_000, 100_000]


def test_without_a_token_a_page_of_another_site_gets_nothing(models: ScriptedModels, workspaces: Workspaces) -> None:
    with running_gateway(workspaces, no_token=True) as gateway, gateway.client(None) as http:
        answer = http.post(PREDICT, content=BODY)
        assert (answer.status_code, list(answer.json())) == (403, ["error"])
        ours = {"origin": gateway.url.rstrip("/"), "content-type": "application/json"}
        assert http.post(PREDICT, content=BODY, headers=ours).status_code == 200
        assert http.post(PREDICT, content=BODY, headers={"origin": ours["origin"]}).status_code == 415
        assert http.get("/v1/models/half").status_code == 200
        assert http.get("/v1/models/half", headers={"sec-fetch-site": "cross-site"}).status_code == 403
    assert len(models.asked) == 2


def test_requests_are_counted_by_the_path_of_their_door(http: httpx.Client) -> None:
    http.post(PREDICT, content=BODY)
    http.get("/v1/models/half/versions/2/metadata")
    http.get("/v1/models/half/nothing")
    counted = http.get("/metrics").text
    assert 'route="/v1/models/{name}:predict",method="POST",status="200"} 1' in counted
    assert 'route="/v1/models/{name}/versions/{version}/metadata",method="GET",status="200"} 1' in counted
    assert "half" not in counted
