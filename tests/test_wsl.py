"""bgpy.wsl against recorded texts and stand-in executables; no Windows machine takes part."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.wsl import (
    DEBIAN,
    IN_UBUNTU,
    LINUX,
    MIRRORED,
    MODELS,
    NAT,
    NO_NETWORK,
    ONE,
    ROUTE_HEAD,
    ROUTE_NAT,
    UNTOLD,
    VIRTIOPROXY,
    WINDOWS,
    WSL1,
    WSL2,
    Recorded,
    Standing,
    printed,
    wsl2_machine,
)

from bgpy import wsl
from bgpy.errors import AuthenticationError, ConnectError, WslError
from bgpy.machine import Finished
from bgpy.wsl import Surroundings, Target

WSL2_OLD = (
    "Linux version 4.19.128-microsoft-standard (oe-user@oe-host) (gcc version 8.2.0 (GCC)) #1 SMP Tue Jun 23 12:58:10 UTC 2020\n"
)


SELF_BUILT = "Linux version 6.6.36.3+ (me@box) (gcc (Ubuntu 13.2.0-23ubuntu4) 13.2.0) #1 SMP PREEMPT_DYNAMIC\n"


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


@pytest.fixture
def machine(tmp_path: Path) -> Standing:
    return Standing(tmp_path)


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
