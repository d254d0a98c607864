"""Starting and finding servers on the other side of WSL, with stand-ins for python.exe and wsl.exe."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from support.wsl import IN_UBUNTU, LINUX, MIRRORED, MODELS, NAT, ONE, TOKEN, WINDOWS, WSL2, Recorded, Standing, printed

from bgpy import wsl
from bgpy.errors import ServerNotFoundError, ServerStartError, WslError
from bgpy.machine import Finished, Machine
from bgpy.wsl import Surroundings, Target

ANSWER = {"ok": True, "pid": 4711, "host": "172.28.64.1", "port": 50123, "id": "ab" * 16, "name": "models"}
needs_scripts = pytest.mark.skipif(os.name == "nt", reason="the stand-ins are scripts with a #! line")


@pytest.fixture
def machine(tmp_path: Path) -> Standing:
    return Standing(tmp_path)


def prints(text: str, encoding: str = "utf-8") -> str:
    """Python source that prints these very bytes."""
    return f"sys.stdout.buffer.write({text.encode(encoding)!r})\n"


LINE = json.dumps(ANSWER) + "\n"


@needs_scripts
def test_start_on_windows_hands_the_token_over_by_standard_input_only(machine: Standing) -> None:
    machine.install("python.exe", prints(LINE))
    request = {"token": TOKEN, "tasks": "QUJD", "init_file": None}
    assert wsl.far_start(MODELS, request, NAT, machine) == ANSWER
    (call,) = machine.calls
    assert call["argv"] == ["-m", "bgpy", "_far", "start", "models"]
    assert call["stdin"].endswith("}\n")
    assert json.loads(call["stdin"]) == {**request, "host": "172.28.64.1", "port": 0}
    assert call["interop"] == "/run/WSL/9_interop"


@needs_scripts
def test_start_in_wsl_names_the_distro_and_runs_no_shell(machine: Standing) -> None:
    machine.install("wsl.exe", prints(LINE))
    assert wsl.far_start(IN_UBUNTU, {"token": TOKEN, "host": None, "port": 8765}, WINDOWS, machine) == ANSWER
    assert (
        wsl.far_find(Target("wsl", None, "models"), {"token": TOKEN}, WINDOWS, machine, python="/opt/venv/bin/python") == ANSWER
    )
    start, find = machine.calls
    assert start["argv"] == ["-d", "Ubuntu", "--exec", "python3", "-m", "bgpy", "_far", "start", "models"]
    assert json.loads(start["stdin"]) == {"token": TOKEN, "host": "127.0.0.1", "port": 8765}
    assert find["argv"] == ["--exec", "/opt/venv/bin/python", "-m", "bgpy", "_far", "find", "models"]
    assert json.loads(find["stdin"]) == {"token": TOKEN}
    assert find["utf8"] == "1"


@needs_scripts
def test_far_python_is_the_option_else_the_environments(machine: Standing) -> None:
    machine.install("mine.exe", prints(LINE))
    machine.install("theirs.exe", prints(LINE.replace("4711", "1")))
    machine.environ = {**machine.environ, "BGPY_FAR_PYTHON": "theirs.exe"}
    assert wsl.far_find(MODELS, {}, NAT, machine)["pid"] == 1
    assert wsl.far_find(MODELS, {}, NAT, machine, python="mine.exe")["pid"] == 4711


@needs_scripts
def test_windows_program_runs_in_the_windows_folder(machine: Standing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = []
    run = machine.run

    def note(argv: Any, timeout: float, stdin: bytes = b"", cwd: str | None = None, **env: str) -> Finished:
        folders.append(cwd)
        return run(argv, timeout, stdin, str(tmp_path), **env)

    monkeypatch.setattr(machine, "run", note)
    monkeypatch.setattr(machine, "exists", lambda path: path == "/mnt/c/Windows")
    machine.install("python.exe", prints(LINE))
    wsl.far_find(MODELS, {}, NAT, machine)
    assert folders == ["/mnt/c/Windows"]
    assert machine.calls[0]["cwd"] == str(tmp_path)


def test_wsl_exe_is_the_one_of_windows_where_it_is_known() -> None:
    machine = Recorded({"C:\\Windows\\System32\\wsl.exe": ""}, {"SystemRoot": "C:\\Windows"}, "win32")
    machine.programs["-m bgpy _far find models"] = printed(LINE)
    wsl.far_find(IN_UBUNTU, {}, WINDOWS, machine)
    assert machine.asked == ["C:\\Windows\\System32\\wsl.exe -d Ubuntu --exec python3 -m bgpy _far find models"]


@needs_scripts
@pytest.mark.parametrize(
    "output",
    [
        pytest.param(
            prints("Loading personal and system profiles took 812ms.\r\n\r\n" + LINE.replace("\n", "\r\n")), id="noise and CRLF"
        ),
        pytest.param(prints(LINE + '\r\nwsl: a late warning\r\n{"ok": 1}\r\n[]\r\n'), id="noise behind it"),
        pytest.param(prints('{"ok": false}\n' + LINE), id="the last answer counts"),
        pytest.param(prints("\ufeff" + LINE), id="BOM"),
        pytest.param(prints("Bäckup läuft\r\n" + LINE.replace("\n", "\r\n"), "utf-16"), id="UTF-16 with BOM"),
        pytest.param(prints(LINE, "utf-16"), id="UTF-16, BOM right before it"),
        pytest.param(prints("läuft\r\n", "utf-16-le") + prints(LINE), id="UTF-16 noise, then UTF-8"),
        pytest.param(prints("l\u00e4uft\r\n", "cp850") + prints(LINE.rstrip()), id="another code page, no last line end"),
        pytest.param(prints(LINE) + "sys.exit(3)", id="a bad exit code behind a good answer"),
    ],
)
def test_answer_is_found_in_what_windows_prints(machine: Standing, output: str) -> None:
    machine.install("python.exe", output)
    assert wsl.far_find(MODELS, {}, NAT, machine) == ANSWER


@needs_scripts
@pytest.mark.parametrize(
    "failure", ["<3>init: (217) ERROR: UtilConnectToInteropServer:270: connect failed 2", "python.exe: Invalid argument"]
)
def test_stale_interop_socket_is_replaced_by_the_newest_once(machine: Standing, failure: str) -> None:
    machine.socket = "/run/WSL/4242_interop"
    good = "/run/WSL/4242_interop"
    machine.install(
        "python.exe", f"if called['interop'] != {good!r}: print({failure!r}, file=sys.stderr); sys.exit(1)\n" + prints(LINE)
    )
    assert wsl.far_start(MODELS, {"token": TOKEN}, NAT, machine) == ANSWER
    stale, fresh = machine.calls
    assert (stale["interop"], fresh["interop"]) == ("/run/WSL/9_interop", good)
    assert stale["stdin"] == fresh["stdin"]


@needs_scripts
@pytest.mark.parametrize(("socket", "calls"), [("/run/WSL/4242_interop", 2), ("/run/WSL/9_interop", 1), (None, 1)])
def test_interop_that_goes_on_failing_is_reported_with_its_mend(machine: Standing, socket: str | None, calls: int) -> None:
    machine.socket = socket
    machine.install(
        "python.exe",
        "print('<3>init: (9) ERROR: UtilConnectToInteropServer:300: connect failed 2', file=sys.stderr); sys.exit(1)",
    )
    with pytest.raises(WslError, match=r"code 1 and no answer. Use a fresh WSL terminal.*connect failed 2") as caught:
        wsl.far_start(MODELS, {"token": TOKEN}, NAT, machine)
    assert len(machine.calls) == calls
    assert caught.value.tried == ("python.exe -m bgpy _far start models",)


@needs_scripts
def test_file_that_the_kernel_cannot_run_is_tried_again_and_reported(machine: Standing) -> None:
    machine.socket = "/run/WSL/4242_interop"
    machine.script("python.exe", "MZ\0 not a program of this kernel")
    with pytest.raises(WslError, match=r"python.exe could not be run: Exec format error. Use a fresh WSL terminal"):
        wsl.far_start(MODELS, {"token": TOKEN}, NAT, machine)


@needs_scripts
def test_failure_that_says_invalid_argument_inside_a_good_answer_is_not_tried_again(machine: Standing) -> None:
    machine.socket = "/run/WSL/4242_interop"
    machine.install("python.exe", "print('Invalid argument', file=sys.stderr)\n" + prints(LINE))
    assert wsl.far_start(MODELS, {"token": TOKEN}, NAT, machine) == ANSWER
    assert len(machine.calls) == 1


@needs_scripts
def test_interop_is_no_matter_for_a_start_from_windows(machine: Standing) -> None:
    machine.socket = "/run/WSL/4242_interop"
    machine.install("wsl.exe", "print('OSError: Invalid argument', file=sys.stderr); sys.exit(1)")
    with pytest.raises(WslError, match="It said: OSError: Invalid argument"):
        wsl.far_start(IN_UBUNTU, {"token": TOKEN}, WINDOWS, machine)
    assert len(machine.calls) == 1


@pytest.mark.parametrize(("target", "here", "mend"), [(MODELS, NAT, "BGPY_FAR_PYTHON"), (IN_UBUNTU, WINDOWS, "wsl --install")])
def test_missing_executable_is_reported_with_its_mend(target: Target, here: Surroundings, mend: str) -> None:
    with pytest.raises(WslError, match=mend) as caught:
        wsl.far_start(target, {"token": TOKEN}, here, Recorded({}))
    assert caught.value.tried[0].endswith("_far start models")


@needs_scripts
@pytest.mark.parametrize("here", [NAT, MIRRORED, ONE])
def test_far_python_without_bgpy_is_told_how_to_install_it(machine: Standing, here: Surroundings) -> None:
    machine.install("python.exe", "print(r'C:\\Python311\\python.exe: No module named bgpy', file=sys.stderr); sys.exit(1)")
    with pytest.raises(WslError, match=r"Install bgpy for it: python.exe -m pip install bgpy. It said: C:.*No module named bgpy"):
        wsl.far_start(MODELS, {"token": TOKEN}, here, machine)


@needs_scripts
def test_garbage_is_reported_without_the_token(machine: Standing) -> None:
    body = prints('?? \x00\x01 {\n[1, 2]\n{"okay": true}\n') + "print('request was', called['stdin'], file=sys.stderr)"
    machine.install("python.exe", body)
    with pytest.raises(WslError, match=r"code 0 and no answer.*request was") as caught:
        wsl.far_start(MODELS, {"token": TOKEN}, NAT, machine)
    assert TOKEN not in str(caught.value)
    assert "(token)" in str(caught.value)


@needs_scripts
def test_words_of_wsl_exe_in_utf16_are_readable_in_the_error(machine: Standing) -> None:
    german = (
        "Es ist keine Distribution mit dem angegebenen Namen verfügbar.\r\nFehlercode: Wsl/Service/WSL_E_DISTRO_NOT_FOUND\r\n"
    )
    machine.install("wsl.exe", prints(german, "utf-16-le") + "sys.exit(255)")
    with pytest.raises(WslError, match=r"code 255 and no answer. It said: Es ist keine .* verfügbar. \| Fehlercode: Wsl/Service"):
        wsl.far_start(IN_UBUNTU, {"token": TOKEN}, WINDOWS, machine)
    # Hardly a NUL in it, but a BOM before it.
    machine.install("wsl.exe", prints("\ufeff没有具有所提供名称的分发", "utf-16-le") + "sys.exit(255)")
    with pytest.raises(WslError, match=r"It said: 没有具有所提供名称的分发\."):
        wsl.far_find(IN_UBUNTU, {"token": ""}, WINDOWS, machine)


@needs_scripts
def test_program_that_hangs_is_killed_when_its_time_is_up(machine: Standing) -> None:
    # It stops itself without reading its input, which is more than a pipe holds.
    machine.script("python.exe", "#!/bin/sh\necho waiting for a licence >&2\nkill -STOP $$\n")
    request = {"token": TOKEN, "tasks": "A" * 1_000_000}
    with pytest.raises(
        WslError, match=r"no answer within 0.5 s. The server may still come up there: bgpy.connect\('windows:models'\)"
    ):
        wsl.far_start(MODELS, request, NAT, machine, timeout=0.5)
    with pytest.raises(WslError, match=r"no answer within 0.5 s. It said: waiting for a licence"):
        wsl.far_find(MODELS, request, NAT, machine, timeout=0.5)


@needs_scripts
def test_answer_does_not_wait_for_what_the_starter_left_running(machine: Standing) -> None:
    gate = machine.folder / "gate"
    os.mkfifo(gate)
    # cat keeps the starter's stdout and stderr until the gate is opened and closed.
    machine.script("python.exe", f"#!/bin/sh\ncat {gate} &\necho '{json.dumps(ANSWER)}'\n")
    try:
        assert wsl.far_start(MODELS, {"token": TOKEN}, NAT, machine, timeout=30) == ANSWER
    finally:
        gate.open("w").close()


@needs_scripts
@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (
            {"ok": False, "type": "ServerStartError", "reason": "port 80 is in use"},
            ServerStartError,
            "did not start: port 80 is in use",
        ),
        (
            {"ok": False, "type": "ServerNotFoundError", "reason": "", "running": ["a", "b"]},
            ServerNotFoundError,
            "'windows:models'.*a, b",
        ),
        ({"ok": False, "type": "ServerNotFoundError", "reason": "no"}, ServerNotFoundError, "No server 'windows:models' runs"),
        ({"ok": False, "type": "TokenError", "reason": "The token is short."}, WslError, "TokenError: The token is short. Tried"),
        ({"ok": True, "host": "127.0.0.1", "id": "x"}, WslError, "lacks host, port or id"),
        ({"ok": True, "host": "127.0.0.1", "port": True, "id": "x"}, WslError, "lacks host, port or id"),
    ],
)
def test_what_the_other_side_refuses_comes_back_as_its_error(
    machine: Standing, answer: dict[str, Any], error: type[Exception], text: str
) -> None:
    machine.install("python.exe", prints(json.dumps(answer) + "\r\n") + "sys.exit(1)")
    with pytest.raises(error, match=text):
        wsl.far_find(MODELS, {"token": TOKEN}, NAT, machine)


@pytest.mark.parametrize(
    ("target", "here", "text"),
    [
        (MODELS, LINUX, "from inside WSL; this is Linux"),
        (MODELS, WINDOWS, "from inside WSL; this is Windows"),
        (IN_UBUNTU, ONE, "from Windows; this is WSL 1, distro Debian"),
        (IN_UBUNTU, LINUX, "from Windows; this is Linux"),
    ],
)
def test_target_that_cannot_be_reached_from_here_says_from_where(target: Target, here: Surroundings, text: str) -> None:
    machine = Recorded({})
    for ask in (wsl.far_start, wsl.far_find):
        with pytest.raises(WslError, match=text):
            ask(target, {"token": TOKEN}, here, machine)
    assert machine.asked == []


@needs_scripts
def test_wslinfo_of_the_machine_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Standing(tmp_path)
    machine.script("wslinfo", '#!/bin/sh\n[ "$1" = --networking-mode ] && echo mirrored\n')
    monkeypatch.setattr(machine, "read_text", {"/proc/version": WSL2}.get)
    monkeypatch.setattr(machine, "platform", "linux")
    assert wsl.look_around(machine).networking == "mirrored"


def test_newest_is_the_entry_changed_last(tmp_path: Path) -> None:
    for name, changed in {"30_interop": 1000, "100_interop": 1002, "4_interop": 1001, "notes": 1003}.items():
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1004, changed))
    assert Machine().newest(str(tmp_path), "_interop") == str(tmp_path / "100_interop")
    assert Machine().newest(str(tmp_path), "_nothing") is None
    assert Machine().newest(str(tmp_path / "missing"), "_interop") is None


def test_real_files_are_read_and_missing_ones_are_none(tmp_path: Path) -> None:
    (tmp_path / "version").write_bytes(b"Linux \xff\n")
    assert Machine().read_text(str(tmp_path / "version")) == "Linux \ufffd\n"
    assert Machine().read_text(str(tmp_path / "none")) is None
    assert Machine().exists(str(tmp_path / "version"))
    assert not Machine().exists(str(tmp_path / "none"))
