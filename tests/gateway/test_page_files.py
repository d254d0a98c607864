"""The files of the page, as a browser gets them, and what it asks before anything else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.commands import ROOT
from support.gateways import TOKEN, RunningGateway

from bgpy.gateway.pages import KINDS

PAGE = ROOT / "bgpy/gateway/page"
FILES = sorted(file for file in PAGE.rglob("*") if file.is_file())
SCRIPTS = [file for file in FILES if file.suffix == ".js"]


def test_every_file_is_there_for_everybody_as_what_it_is(gateway: RunningGateway) -> None:
    with gateway.client(token=None) as http:
        for file in FILES:
            name = file.relative_to(PAGE).as_posix()
            if name == "index.html":
                continue
            answer = http.get(f"/{name}")
            assert answer.content == file.read_bytes(), name
            assert answer.headers["content-type"] == KINDS[file.suffix], name
        for name in ("vendor", "vendor/", "index.html", "vendor/nothing.js"):
            assert http.get(f"/{name}").status_code in (401, 404), name


@pytest.mark.parametrize("script", [file for file in SCRIPTS if file.parent.name != "vendor"], ids=lambda file: file.name)
def test_a_module_imports_only_files_that_there_are(script: Path) -> None:
    text = script.read_text(encoding="utf-8")
    imported = re.findall(r"""(?:from|import)\s*\(?"([^"]+)"\)?""", text)
    for name in imported:
        assert name.startswith((".", "..")), f"{name} would be asked of another host, or of the root of this one"
        assert (script.parent / name).resolve() in FILES, name
    assert "innerHTML" not in text  # what jobs say would become markup
    assert "outerHTML" not in text
    assert "insertAdjacentHTML" not in text


def test_the_libraries_come_with_their_licences() -> None:
    for script in (PAGE / "vendor").glob("*.js"):
        licence = script.with_suffix(".LICENSE.txt").read_text(encoding="utf-8")
        assert "Permission is hereby granted, free of charge" in licence


def test_a_browser_asks_whether_it_is_logged_in(gateway: RunningGateway) -> None:
    with gateway.client(token=None) as http:
        assert http.get("/login").json() == {"request_result": True, "result": False}
        assert http.get("/login", headers={"authorization": "Bearer wrong"}).json()["result"] is False
        assert http.get("/login", headers={"authorization": f"Bearer {TOKEN}"}).json()["result"] is True
        origin = {"origin": gateway.url.rstrip("/")}
        assert http.post("/login", json={"token": TOKEN}, headers=origin).json()["result"] is True
        assert http.get("/login").json()["result"] is True
        assert http.get("/login", headers={"sec-fetch-site": "cross-site"}).json()["result"] is False
        assert http.get("/login", headers={"origin": "http://elsewhere"}).status_code == 403


def test_the_packages_are_those_that_the_licences_name() -> None:
    wanted = re.findall(r'"((?:@[a-z-]+/)?[a-z-]+)": "(\d[\d.]*)"', (ROOT / "tools/vendor-page/package.json").read_text())
    licences = "".join(file.read_text(encoding="utf-8") for file in (PAGE / "vendor").glob("*.txt"))
    for name, version in wanted:
        assert name == "esbuild" or f"{name} {version} (MIT)" in licences, name
