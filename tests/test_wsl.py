"""bgpy.wsl against recorded texts and stand-in executables; no Windows machine takes part."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from bgpy import wsl
from bgpy.errors import AuthenticationError, ConnectError, ServerNotFoundError, ServerStartError, WslError
from bgpy.machine import Finished, Machine
from bgpy.wsl import Surroundings, Target

WSL1 = (
    "Linux version 4.4.0-19041-Microsoft (Microsoft@Microsoft.com) (gcc version 5.4.0 (GCC) ) "
    "#1237-Microsoft Sat Sep 11 14:32:00 PST 2021\n"
)
WSL2 = (
    "Linux version 5.15.153.1-microsoft-standard-WSL2 (root@941d701f84f1) (gcc (GCC) 11.2.0, GNU ld (GNU Binutils) 2.37) "
    "#1 SMP Fri Mar 29 23:14:13 UTC 2024\n"
)
WSL2_OLD = (
    "Linux version 4.19.128-microsoft-standard (oe-user@oe-host) (gcc version 8.2.0 (GCC)) #1 SMP Tue Jun 23 12:58:10 UTC 2020\n"
)
SELF_BUILT = "Linux version 6.6.36.3+ (me@box) (gcc (Ubuntu 13.2.0-23ubuntu4) 13.2.0) #1 SMP PREEMPT_DYNAMIC\n"
DEBIAN = (
    "Linux version 6.1.0-21-amd64 (debian-kernel@lists.debian.org) (gcc-12 (Debian 12.2.0-14) 12.2.0) "
    "#1 SMP PREEMPT_DYNAMIC Debian 6.1.90-1 (2024-05-03)\n"
)
ROUTE_HEAD = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
ROUTE_NAT = (
    ROUTE_HEAD
    + "eth0\t00000000\t01401CAC\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
    + "eth0\t00401CAC\t00000000\t0001\t0\t0\t0\t00F0FFFF\t0\t0\t0\n"
)
# A VPN puts a second default route there; the table is not in the order of its metrics.
ROUTE_TWO = (
    ROUTE_HEAD
    + "tun0\t00000000\t0100000A\t0003\t0\t0\t50\t00000000\t0\t0\t0\n"
    + "eth0\t00000000\t01401CAC\t0003\t0\t0\t25\t00000000\t0\t0\t0\n"
)
# A default route without a gateway, a route to one network through a gateway, a host route, a line cut short.
ROUTE_NONE = (
    ROUTE_HEAD
    + "tun0\t00000000\t00000000\t0001\t0\t0\t0\t00000000\t0\t0\t0\n"
    + "eth0\t0000A8C0\t01401CAC\t0003\t0\t0\t0\t0000FFFF\t0\t0\t0\n"
    + "eth0\t00000000\t01401CAC\t0007\t0\t0\t0\tFFFFFFFF\t0\t0\t0\n"
    + "eth0\t00000000\n"
)

NAT = Surroundings("wsl2", "nat", "Ubuntu", "172.28.64.1")
MIRRORED = Surroundings("wsl2", "mirrored", "Ubuntu", "192.168.1.1")
VIRTIOPROXY = Surroundings("wsl2", "virtioproxy", "Ubuntu", "192.168.1.1")
NO_NETWORK = Surroundings("wsl2", "none", "Ubuntu")
UNTOLD = Surroundings("wsl2", None, "Ubuntu", "172.28.64.1")
ONE = Surroundings("wsl1", None, "Debian", "192.168.1.1")
WINDOWS = Surroundings("windows")
LINUX = Surroundings("linux")
MODELS = Target("windows", None, "models")
IN_UBUNTU = Target("wsl", "Ubuntu", "models")
TOKEN = "a-token-of-more-than-22-characters"
ANSWER = {"ok": True, "pid": 4711, "host": "172.28.64.1", "port": 50123, "id": "ab" * 16, "name": "models"}

needs_scripts = pytest.mark.skipif(os.name == "nt", reason="the stand-ins are scripts with a #! line")


class Recorded(Machine):
    """A machine made of recorded files and of programs that answer from a table (by the end of their command line)."""

    def __init__(self, files: dict[str, str], environ: dict[str, str] | None = None, platform: str = "linux") -> None:
        self.platform = platform
        self.environ = environ or {}
        self.files = files
        self.programs: dict[str, Finished | OSError] = {}
        self.asked: list[str] = []

    def read_text(self, path: str) -> str | None:
        return self.files.get(path)

    def exists(self, path: str) -> bool:
        return path in self.files

    def newest(self, folder: str, ending: str) -> str | None:
        return None

    def run(self, argv: Any, timeout: float, stdin: bytes = b"", cwd: str | None = None, **env: str) -> Finished:
        line = " ".join(argv)
        self.asked.append(line)
        answer = next(
            (found for end, found in self.programs.items() if line.endswith(end)), FileNotFoundError(2, "No such file", argv[0])
        )
        if isinstance(answer, OSError):
            raise answer
        return answer


def printed(text: str, encoding: str = "utf-8") -> Finished:
    return Finished(0, text.encode(encoding), b"")


def wsl2_machine(mode: Finished | OSError | None = None, version: str = WSL2, route: str = ROUTE_NAT) -> Recorded:
    machine = Recorded(
        {"/proc/version": version, "/proc/net/route": route}, {"WSL_DISTRO_NAME": "Ubuntu", "WSL_INTEROP": "/run/WSL/7_interop"}
    )
    if mode is not None:
        machine.programs["wslinfo --networking-mode"] = mode
    return machine


# Which side and mode


def test_importing_the_module_loads_the_machine_and_no_other_module() -> None:
    code = """if True:
        import sys, typing, bgpy.errors
        before = set(sys.modules)
        import bgpy.wsl
        print(sorted(set(sys.modules) - before - {"bgpy.wsl", "bgpy.machine"}))
    """
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("mode", ["nat", "mirrored", "virtioproxy", "none"])
def test_wsl2_tells_its_networking_mode_and_gateway(mode: str) -> None:
    assert wsl.look_around(wsl2_machine(printed(f"{mode}\n"))) == ("wsl2", mode, "Ubuntu", "172.28.64.1")


@pytest.mark.parametrize(
    ("mode", "networking"),
    [
        pytest.param(None, "nat", id="no wslinfo: older than the other modes"),
        pytest.param(PermissionError(13, "Permission denied"), "nat", id="wslinfo cannot be run"),
        pytest.param(Finished(1, b"Invalid command line argument: --networking-mode\n", b""), None, id="wslinfo fails"),
        pytest.param(Finished(None, b"", b""), None, id="wslinfo hangs"),
        pytest.param(Finished(1, b"nat\n", b""), None, id="wslinfo answers and fails"),
        pytest.param(printed("bridged\n"), None, id="a mode we do not know"),
        pytest.param(printed("Mirrored\r\n", "utf-16-le"), "mirrored", id="odd case, line ends and encoding"),
    ],
)
def test_wslinfo_that_does_not_answer_leaves_the_mode_open(mode: Finished | OSError | None, networking: str | None) -> None:
    assert wsl.look_around(wsl2_machine(mode)).networking == networking


@pytest.mark.parametrize(
    ("version", "environ", "side"),
    [
        pytest.param(WSL1, {"WSL_DISTRO_NAME": "Ubuntu"}, "wsl1", id="wsl 1"),
        pytest.param(WSL1, {}, "wsl1", id="wsl 1, environment lost (sudo, cron)"),
        pytest.param(WSL2, {}, "wsl2", id="wsl 2, environment lost"),
        pytest.param(WSL2_OLD, {}, "wsl2", id="wsl 2 before its kernels said so"),
        pytest.param(SELF_BUILT, {"WSL_INTEROP": "/run/WSL/7_interop"}, "wsl2", id="wsl 2 with a kernel of one's own"),
        pytest.param(DEBIAN, {}, "linux", id="plain Linux"),
        pytest.param(None, {}, "linux", id="no /proc at all"),
    ],
)
def test_side_is_told_by_environment_and_kernel(version: str | None, environ: dict[str, str], side: str) -> None:
    files = {} if version is None else {"/proc/version": version}
    assert wsl.look_around(Recorded(files, environ)).side == side


@pytest.mark.parametrize(("platform", "side"), [("win32", "windows"), ("darwin", "macos")])
def test_windows_and_macos_are_told_without_running_anything(platform: str, side: str) -> None:
    machine = Recorded({}, {"WSL_DISTRO_NAME": "Ubuntu"}, platform)
    assert wsl.look_around(machine) == Surroundings(side)
    assert machine.asked == []


@pytest.mark.parametrize(
    ("route", "gateway"), [(ROUTE_NAT, "172.28.64.1"), (ROUTE_TWO, "172.28.64.1"), (ROUTE_NONE, None), ("", None)]
)
def test_gateway_is_that_of_the_default_route_with_the_lowest_metric(route: str, gateway: str | None) -> None:
    assert wsl.look_around(wsl2_machine(printed("nat\n"), route=route)).gateway == gateway


def test_this_very_machine_can_be_looked_at() -> None:
    assert wsl.look_around().side in ("windows", "wsl1", "wsl2", "linux", "macos")


# Names


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("models", None),
        ("windows:models", ("windows", None, "models")),
        ("wsl:models", ("wsl", None, "models")),
        ("wsl:Ubuntu/models", ("wsl", "Ubuntu", "models")),
        ("wsl:Ubuntu-22.04/m_1.x", ("wsl", "Ubuntu-22.04", "m_1.x")),
        ("wsl:My Distro/models", ("wsl", "My Distro", "models")),
    ],
)
def test_name_with_a_side_is_read_and_written_back(name: str, target: tuple[str, str | None, str] | None) -> None:
    found = wsl.parse_target(name)
    assert found == target
    assert found is None or str(found) == name


@pytest.mark.parametrize(
    "name",
    [
        "localhost:8080",
        "C:models",
        "windows:",
        "windows:a/b",
        "windows:a b",
        "windows:.hidden",
        "windows:--help",
        "windows:" + "a" * 65,
        "wsl:",
        "wsl:/models",
        "wsl:Ubuntu/",
        "wsl:--exec/models",
        "wsl:a/b/models",
        "wsl:a\nb/models",
        "WSL:models",
        ":models",
    ],
)
def test_name_that_fits_no_side_is_refused_with_the_forms_that_do(name: str) -> None:
    with pytest.raises(WslError, match="Use windows:NAME, wsl:NAME or wsl:DISTRO/NAME"):
        wsl.parse_target(name)


@pytest.mark.parametrize(
    ("target", "here", "expected"),
    [
        (MODELS, WINDOWS, True),
        (MODELS, NAT, False),
        (MODELS, LINUX, False),
        (IN_UBUNTU, NAT, True),
        (Target("wsl", "ubuntu", "models"), NAT, True),
        (Target("wsl", None, "models"), ONE, True),
        (IN_UBUNTU, ONE, False),
        (IN_UBUNTU, WINDOWS, False),
        (Target("wsl", None, "models"), LINUX, False),
    ],
)
def test_target_on_this_very_side_is_recognised(target: Target, here: Surroundings, expected: bool) -> None:
    assert wsl.is_here(target, here) is expected


# Addresses


@pytest.mark.parametrize(
    ("here", "candidates"),
    [
        pytest.param(NAT, ("172.28.64.1", "10.1.1.1"), id="nat: never the loopback, which is WSL itself"),
        pytest.param(MIRRORED, ("127.0.0.1", "10.1.1.1"), id="mirrored: never the gateway, which is the router"),
        pytest.param(VIRTIOPROXY, ("127.0.0.1", "192.168.1.1", "10.1.1.1"), id="virtioproxy"),
        pytest.param(UNTOLD, ("172.28.64.1", "10.1.1.1", "127.0.0.1"), id="mode unknown"),
        pytest.param(NO_NETWORK, (), id="none"),
        pytest.param(ONE, ("127.0.0.1", "10.1.1.1"), id="wsl 1"),
        pytest.param(WINDOWS, ("127.0.0.1", "10.1.1.1"), id="windows"),
        pytest.param(LINUX, (), id="linux"),
    ],
)
def test_candidates_are_in_the_order_of_the_mode(here: Surroundings, candidates: tuple[str, ...]) -> None:
    assert wsl.other_side_candidates(here, ["10.1.1.1"]) == candidates


def test_candidates_are_not_tried_twice() -> None:
    assert wsl.other_side_candidates(NAT, ["172.28.64.1", "10.1.1.1", "10.1.1.1"]) == ("172.28.64.1", "10.1.1.1")


@pytest.mark.parametrize(
    ("target", "here", "address"),
    [
        (MODELS, NAT, "172.28.64.1"),
        (MODELS, UNTOLD, "172.28.64.1"),
        (MODELS, MIRRORED, "127.0.0.1"),
        (MODELS, VIRTIOPROXY, "127.0.0.1"),
        (MODELS, ONE, "127.0.0.1"),
        (IN_UBUNTU, WINDOWS, "127.0.0.1"),
    ],
)
def test_far_server_binds_what_this_side_reaches_and_the_lan_does_not(target: Target, here: Surroundings, address: str) -> None:
    assert wsl.bind_address(target, here) == address


@pytest.mark.parametrize("here", [NO_NETWORK, NAT._replace(gateway=None)])
def test_far_server_without_a_common_network_is_refused(here: Surroundings) -> None:
    with pytest.raises(WslError, match=r"no network|no default route"):
        wsl.bind_address(MODELS, here)


def test_far_addresses_are_those_of_the_user_and_of_the_server() -> None:
    machine = Recorded({}, {"BGPY_FAR_HOST": "10.1.1.1, mybox"})
    assert wsl.far_addresses(MODELS, "127.0.0.1", NAT, machine) == ("10.1.1.1", "mybox")
    assert wsl.far_addresses(MODELS, "172.28.64.1", NAT, machine) == ("10.1.1.1", "mybox", "172.28.64.1")
    assert wsl.far_addresses(MODELS, "0.0.0.0", NAT, Recorded({})) == ()


def test_far_addresses_of_a_wsl_server_on_all_interfaces_are_asked_from_its_distro() -> None:
    machine = Recorded({}, platform="win32")
    assert wsl.far_addresses(IN_UBUNTU, "0.0.0.0", WINDOWS, machine) == ()
    machine.programs["wsl.exe -d Ubuntu --exec hostname -I"] = printed("172.28.70.2 172.17.0.1 fd00::1 \n")
    assert wsl.far_addresses(IN_UBUNTU, "0.0.0.0", WINDOWS, machine) == ("172.28.70.2", "172.17.0.1")
    machine.programs["wsl.exe -d Ubuntu --exec hostname -I"] = Finished(1, b"no such distro", b"")
    assert wsl.far_addresses(IN_UBUNTU, "0.0.0.0", WINDOWS, machine) == ()


def test_reach_passes_over_addresses_that_do_not_prove_themselves() -> None:
    asked = []

    def connect(host: str, port: int, timeout: float) -> str:
        asked.append((host, port, timeout))
        if host == "a":
            raise ConnectError("a:1", "refused")
        if host == "b":
            raise AuthenticationError("b:1", "another token")
        return f"client of {host}"

    assert wsl.reach(["a", "b", "c", "d"], 1, connect) == ("c", "client of c")
    assert asked == [("a", 1, 2), ("b", 1, 2), ("c", 1, 2)]


def test_reach_tells_what_each_address_answered() -> None:
    def connect(host: str, port: int, timeout: float) -> None:
        raise ConnectError(host, "refused") if host == "a" else TimeoutError("timed out")

    with pytest.raises(WslError) as caught:
        wsl.reach(["a", "b"], 7, connect)
    assert caught.value.tried == ("a:7 (refused)", "b:7 (timed out)")
    with pytest.raises(WslError, match="no other side"):
        wsl.reach([], 7, connect)


def test_reach_lets_a_bug_of_its_caller_through() -> None:
    with pytest.raises(ZeroDivisionError):
        wsl.reach(["a", "b"], 1, lambda host, port, timeout: 1 // 0)


# Starting and finding on the other side, with stand-ins for python.exe and wsl.exe


class Standing(Machine):
    """This machine, with a folder of stand-ins first on PATH and our own /run/WSL."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.environ = {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "WSL_INTEROP": "/run/WSL/9_interop"}
        self.socket: str | None = None

    def exists(self, path: str) -> bool:
        return False

    def newest(self, folder: str, ending: str) -> str | None:
        assert (folder, ending) == ("/run/WSL", "_interop")
        return self.socket

    def install(self, name: str, body: str) -> None:
        """Write a stand-in that notes how it was called, then does `body`."""
        note = f"""\
            import json, os, sys
            called = {{"argv": sys.argv[1:], "stdin": sys.stdin.read(), "cwd": os.getcwd(),
                       "interop": os.environ.get("WSL_INTEROP"), "utf8": os.environ.get("WSL_UTF8")}}
            with open({str(self.folder / "calls")!r}, "a") as calls:
                print(json.dumps(called), file=calls)
            """
        self.script(name, f"#!{sys.executable}\n{textwrap.dedent(note)}{textwrap.dedent(body)}")

    def script(self, name: str, text: str) -> None:
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o755)

    @property
    def calls(self) -> list[dict[str, Any]]:
        path = self.folder / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


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


# The firewall and the doctor


@pytest.mark.parametrize(
    ("here", "command"),
    [
        (
            NAT,
            "New-NetFirewallRule -DisplayName bgpy -Direction Inbound "
            '-InterfaceAlias "vEthernet (WSL (Hyper-V firewall))" -Protocol TCP -LocalPort 8765 -Action Allow',
        ),
        (
            MIRRORED,
            "New-NetFirewallHyperVRule -Name bgpy -DisplayName bgpy -Direction Inbound "
            "-VMCreatorId '{40E0AC32-46A5-438A-A0B2-2B479E8F2E90}' -Protocol TCP -LocalPorts 8765 -Action Allow",
        ),
        (VIRTIOPROXY, None),
        (NO_NETWORK, None),
        (ONE, None),
        (WINDOWS, None),
        (LINUX, None),
    ],
)
def test_firewall_command_is_the_one_of_the_mode(here: Surroundings, command: str | None) -> None:
    assert wsl.firewall_command(here, 8765) == command


def test_firewall_command_without_a_port_covers_those_windows_picks() -> None:
    assert "-LocalPort 49152-65535 " in str(wsl.firewall_command(UNTOLD))


def test_doctor_in_wsl2_with_nat() -> None:
    machine = wsl2_machine(printed("nat\n"))
    machine.files["/proc/sys/fs/binfmt_misc/WSLInterop"] = "enabled\ninterpreter /init\nflags: PF\noffset 0\nmagic 4d5a\n"
    machine.programs["python.exe -m bgpy version"] = printed("bgpy 0.4.0\r\n")
    assert wsl.diagnose(machine, 8765) == [
        "Side: WSL 2, distro Ubuntu, networking nat.",
        "Windows is tried at: 172.28.64.1.",
        "A server started on Windows from here binds 172.28.64.1.",
        "Interop (Windows programs run from here): on.",
        "Tried python.exe -m bgpy version: bgpy 0.4.0.",
        "Firewall: if WSL does not reach a server on Windows, run once in an administrator's PowerShell: "
        "New-NetFirewallRule -DisplayName bgpy -Direction Inbound "
        '-InterfaceAlias "vEthernet (WSL (Hyper-V firewall))" -Protocol TCP -LocalPort 8765 -Action Allow',
    ]


def test_doctor_in_wsl2_with_mirrored_networking_needs_no_rule_between_the_sides() -> None:
    machine = wsl2_machine(printed("mirrored\n"))
    machine.files["/proc/sys/fs/binfmt_misc/WSLInterop-late"] = "enabled\ninterpreter /init\n"
    machine.environ = {**machine.environ, "BGPY_FAR_HOST": "10.1.1.1"}
    machine.programs["python.exe -m bgpy version"] = Finished(1, b"", b"python.exe: No module named bgpy\r\n")
    lines = wsl.diagnose(machine)
    assert lines == [
        "Side: WSL 2, distro Ubuntu, networking mirrored.",
        "Windows is tried at: 127.0.0.1, 10.1.1.1.",
        "A server started on Windows from here binds 127.0.0.1.",
        "Interop (Windows programs run from here): on.",
        "Tried python.exe -m bgpy version: python.exe: No module named bgpy. That Python must have bgpy.",
        "Firewall: no rule is needed between the two sides.",
    ]
    assert wsl.diagnose(machine, 80)[-1].startswith("For other machines to reach port 80 of this WSL: New-NetFirewallHyperVRule ")


def test_doctor_in_a_wsl2_that_has_everything_switched_off() -> None:
    machine = wsl2_machine(Finished(None, b"", b""), route="")
    machine.files["/proc/sys/fs/binfmt_misc/WSLInterop"] = "disabled\n"
    side, tried, binds, interop, python, firewall = wsl.diagnose(machine)
    assert side == "Side: WSL 2, distro Ubuntu, networking unknown (wslinfo gave no answer), taken for nat."
    assert tried == "Windows is tried at: 127.0.0.1."
    assert binds == "This WSL has no default route, so the address of Windows is unknown."
    assert interop.startswith("Interop (Windows programs run from here): off. Use a fresh WSL terminal")
    assert python.startswith("Tried python.exe -m bgpy version: No such file. Install Python and bgpy on Windows")
    assert "New-NetFirewallRule" in firewall


def test_doctor_in_wsl1() -> None:
    lines = wsl.diagnose(Recorded({"/proc/version": WSL1}, {"WSL_DISTRO_NAME": "Debian"}))
    assert lines[:2] == ["Side: WSL 1, distro Debian.", "Windows is tried at: 127.0.0.1."]
    assert lines[-1] == "Firewall: no rule is needed between the two sides."


def test_doctor_on_windows_reads_the_utf16_of_wsl_exe() -> None:
    machine = Recorded({}, platform="win32")
    machine.programs["wsl.exe --list --quiet"] = printed("Ubuntu\r\nDebian-Bücher\r\n", "utf-16-le")
    machine.programs["wsl.exe --exec wslinfo --networking-mode"] = printed("nat\n")
    machine.programs["wsl.exe --exec python3 -m bgpy version"] = Finished(None, b"", b"")
    assert wsl.diagnose(machine, 8765) == [
        "Side: Windows.",
        "WSL distros: Ubuntu, Debian-Bücher.",
        "Networking of WSL: nat.",
        "WSL is tried at: 127.0.0.1.",
        "Tried wsl.exe --exec python3 -m bgpy version: no answer within 30 s. That Python must have bgpy.",
        "Firewall: no rule is needed from Windows to WSL.",
        "Firewall: if WSL does not reach a server on Windows, run once in an administrator's PowerShell: "
        + str(wsl.firewall_command(NAT, 8765)),
    ]
    machine.programs["wsl.exe --exec wslinfo --networking-mode"] = printed("mirrored\n")
    assert wsl.diagnose(machine, 8765)[-1] == "Firewall: no rule is needed from Windows to WSL."


@pytest.mark.parametrize(
    ("listing", "said"),
    [
        (None, "No such file"),
        (Finished(0, b"", b""), "nothing"),
        (Finished(1, "WSL ist nicht installiert.\r\n".encode("utf-16-le"), b""), "WSL ist nicht installiert"),
    ],
)
def test_doctor_on_windows_without_wsl_says_so(listing: Finished | None, said: str) -> None:
    machine = Recorded({}, platform="win32")
    if listing is not None:
        machine.programs["wsl.exe --list --quiet"] = listing
    assert wsl.diagnose(machine) == [
        "Side: Windows.",
        f"Tried wsl.exe --list --quiet: {said}. Without WSL, wsl: names mean nothing here; all else works.",
    ]


@pytest.mark.parametrize(("platform", "name"), [("linux", "Linux"), ("darwin", "macOS")])
def test_doctor_elsewhere_says_in_one_line_that_there_is_no_other_side(platform: str, name: str) -> None:
    machine = Recorded({"/proc/version": DEBIAN}, platform=platform)
    assert wsl.diagnose(machine) == [f"Side: {name}, without WSL: windows: and wsl: names mean nothing here, all else works."]
    assert machine.asked == []


def test_doctor_shows_no_token() -> None:
    machine = wsl2_machine(printed("nat\n"))
    machine.environ = {**machine.environ, "BGPY_TOKEN": TOKEN}
    assert TOKEN not in "\n".join(wsl.diagnose(machine))
