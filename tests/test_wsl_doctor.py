"""What the doctor says of WSL, and the command for the firewall."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.wsl import (
    DEBIAN,
    LINUX,
    MIRRORED,
    NAT,
    NO_NETWORK,
    ONE,
    TOKEN,
    UNTOLD,
    VIRTIOPROXY,
    WINDOWS,
    WSL1,
    Recorded,
    Standing,
    printed,
    wsl2_machine,
)

from bgpy import wsl
from bgpy.machine import Finished
from bgpy.wsl import Surroundings


@pytest.fixture
def machine(tmp_path: Path) -> Standing:
    return Standing(tmp_path)


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
