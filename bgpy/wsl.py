"""
Reach the other side of the Windows Subsystem for Linux: Windows from WSL, WSL from Windows.

Nothing here runs at import. All that is read from the machine, and every program that is run, goes through a `Machine`, so a
recorded machine can stand in for it. docs/wsl.rst walks through both directions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeVar

from bgpy.errors import BgpyError, ServerNotFoundError, ServerStartError, WslError
from bgpy.machine import Finished, Machine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

T = TypeVar("T")

LOOPBACK = "127.0.0.1"
#: The creator id of all WSL machines in the Hyper-V firewall (learn.microsoft.com, "Configure Hyper-V firewall").
_WSL_VM_CREATOR = "{40E0AC32-46A5-438A-A0B2-2B479E8F2E90}"
#: The dynamic port range of Windows since Vista (``netsh int ipv4 show dynamicport tcp``).
_DYNAMIC_PORTS = "49152-65535"
_MODES = ("nat", "mirrored", "virtioproxy", "none")
_NAME_LETTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")
_TARGETS = "Use windows:NAME, wsl:NAME or wsl:DISTRO/NAME; a name has up to 64 of A-Z a-z 0-9 . _ - and begins with none of . -"
#: What WSL's init, or the kernel, says when a Windows program could not be run at all; nothing ran on the other side then.
_INTEROP_FAILURES = ("connect failed", "Invalid argument", "Exec format error")
_INTEROP_MEND = "Use a fresh WSL terminal, or switch interop on: [interop] enabled=true in /etc/wsl.conf, then wsl.exe --shutdown"
_FIREWALL_HINT = "Firewall: if WSL does not reach a server on Windows, run once in an administrator's PowerShell"
_MISSING = {
    "windows": "Install Python and bgpy on Windows, python.exe on its PATH, or name it: BGPY_FAR_PYTHON=/mnt/c/.../python.exe",
    "wsl": "Install WSL (wsl --install), and in it Python and bgpy",
}
_INTEROP_STATE = "/proc/sys/fs/binfmt_misc/WSLInterop"


class Surroundings(NamedTuple):
    """Tell on which side of WSL this process runs."""

    #: "windows", "wsl1", "wsl2", "linux" or "macos".
    side: str
    #: "nat", "mirrored", "virtioproxy" or "none" in WSL 2; None elsewhere, and in a WSL 2 that does not tell (taken for "nat").
    networking: str | None = None
    distro: str | None = None
    #: The IPv4 address of the default gateway: with "nat" networking that is Windows.
    gateway: str | None = None

    @property
    def in_wsl(self) -> bool:
        """Whether this process runs in WSL 1 or 2."""
        return self.side in ("wsl1", "wsl2")


class Target(NamedTuple):
    """Name a server on one side: ``windows:models``, ``wsl:models`` (the default distro) or ``wsl:Ubuntu/models``."""

    side: str
    distro: str | None
    name: str

    def __str__(self) -> str:
        return f"{self.side}:{self.distro}/{self.name}" if self.distro else f"{self.side}:{self.name}"


def look_around(machine: Machine | None = None) -> Surroundings:
    """
    Find out on which side of WSL this process runs and how the two sides are joined.

    Reads /proc and, in WSL 2, runs ``wslinfo`` (at most 5 s); on Windows it runs nothing. Raises nothing.
    """
    machine = machine or Machine()
    if machine.platform == "win32":
        return Surroundings("windows")
    if machine.platform == "darwin":
        return Surroundings("macos")
    version = (machine.read_text("/proc/version") or "").lower()
    distro = machine.environ.get("WSL_DISTRO_NAME") or None
    if distro is None and "WSL_INTEROP" not in machine.environ and "microsoft" not in version:
        return Surroundings("linux")
    gateway = _default_gateway(machine.read_text("/proc/net/route") or "")
    # A self-built kernel says neither "microsoft" nor "wsl2", and only WSL 2 runs one.
    if "microsoft" in version and not ("wsl2" in version or "microsoft-standard" in version):
        return Surroundings("wsl1", None, distro, gateway)
    return Surroundings("wsl2", _networking(machine), distro, gateway)


def _networking(machine: Machine, prefix: tuple[str, ...] = (), timeout: float = 5.0) -> str | None:
    """Ask wslinfo for the networking mode; None where it gives no answer."""
    try:
        finished = machine.run((*prefix, "wslinfo", "--networking-mode"), timeout)
    except OSError:
        # No wslinfo: a WSL 2 older than the other modes.
        return "nat"
    mode = finished.text.strip().lower()
    return mode if finished.code == 0 and mode in _MODES else None


def _default_gateway(route_table: str) -> str | None:
    """Return the gateway of the default route with the lowest metric in the text of /proc/net/route."""
    routes = [line.split() for line in route_table.splitlines()[1:]]
    # Columns: interface, destination, gateway, flags, ..., metric, mask. Flag 2 (RTF_GATEWAY): it goes through a gateway.
    default = [(int(f[6]), f[2]) for f in routes if len(f) > 7 and f[1] == f[7] == "00000000" and int(f[3], 16) & 2]
    # The kernel prints the four bytes as one number; WSL runs on little-endian machines only.
    return ".".join(str(byte) for byte in reversed(bytes.fromhex(min(default)[1]))) if default else None


def parse_target(name: str) -> Target | None:
    """
    Read a name with a side before it; None for a plain name, which holds no colon.

    Raises
    ------
    WslError
        There is a colon, but this is no name on either side.
    TypeError
        It is no text.
    """
    if not isinstance(name, str):
        raise TypeError(f"A server's name is a text, not {name!r:.100}.")
    side, colon, rest = name.partition(":")
    if not colon:
        return None
    distro, slash, plain = rest.rpartition("/") if side == "wsl" else ("", "", rest)
    usable_distro = not slash or (distro and distro[0] != "-" and distro.isprintable() and not set(distro) & set('/\\:"'))
    usable_name = 0 < len(plain) <= 64 and plain[0] not in ".-" and _NAME_LETTERS.issuperset(plain)
    if side not in ("windows", "wsl") or not usable_distro or not usable_name:
        raise WslError(f"{name!r} is no name of a server. {_TARGETS}")
    return Target(side, distro or None, plain)


def is_here(target: Target, here: Surroundings) -> bool:
    """Return whether the target lies on this very side, so that its plain name means the same."""
    if target.side == "windows":
        return here.side == "windows"
    return here.in_wsl and (target.distro is None or target.distro.lower() == (here.distro or "").lower())


def bind_address(target: Target, here: Surroundings) -> str:
    """
    Return the address a server on the other side must bind so that this side reaches it and the local network does not.

    Raises
    ------
    WslError
        The two sides have no network in common.
    """
    if target.side == "windows" and here.side == "wsl2":
        if here.networking == "none":
            raise WslError("This WSL has no network (networkingMode=none in .wslconfig), so nothing on Windows can be reached")
        if here.networking in ("nat", None):
            if here.gateway is None:
                raise WslError("This WSL has no default route, so the address of Windows is unknown", ("/proc/net/route",))
            return here.gateway
    return LOOPBACK


def other_side_candidates(here: Surroundings, extra: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the addresses at which the other side may be reached, the likeliest first; none where there is no other side."""
    gateway = (here.gateway,) if here.gateway else ()
    if here.side in ("linux", "macos") or here.networking == "none":
        return ()
    if here.networking == "nat":
        # Not the loopback: with NAT that is WSL itself, never Windows.
        found = (*gateway, *extra)
    elif here.side == "wsl2" and here.networking is None:
        found = (*gateway, *extra, LOOPBACK)
    elif here.networking == "virtioproxy":
        found = (LOOPBACK, *gateway, *extra)
    else:
        found = (LOOPBACK, *extra)
    return tuple(dict.fromkeys(found))


def far_addresses(target: Target, bound: str, here: Surroundings, machine: Machine | None = None) -> tuple[str, ...]:
    """
    Return the addresses to try beside the usual ones for a server that has bound `bound` on the other side.

    They are those of BGPY_FAR_HOST (with commas between), `bound` where it is one address and not loopback, and for a server
    in WSL that has bound all addresses what ``hostname -I`` says there (at most 30 s).
    """
    machine = machine or Machine()
    found = [address.strip() for address in machine.environ.get("BGPY_FAR_HOST", "").split(",") if address.strip()]
    if bound in ("0.0.0.0", "::", ""):
        if here.side == "windows":
            try:
                finished = machine.run((*_wsl_argv(target.distro, machine), "hostname", "-I"), 30)
            except OSError:
                return tuple(found)
            found += [address for address in finished.text.split() if finished.code == 0 and ":" not in address]
    elif not bound.startswith("127.") and bound not in ("::1", "localhost"):
        found.append(bound)
    return tuple(found)


def reach(candidates: Sequence[str], port: int, try_connect: Callable[[str, int, float], T], timeout: float = 2) -> tuple[str, T]:
    """
    Return the first address that leads to the wanted server, with what `try_connect` made of it. Blocks for `timeout` s each.

    `try_connect(host, port, timeout)` makes an authenticated connection to the wanted server and raises for any other: whatever
    listens on that port of a wrong address must not get through, and neither must a server of our own on this side.

    Raises
    ------
    WslError
        None of the addresses led to that server; `tried` says what each one answered.
    """
    tried = []
    for host in candidates:
        try:
            return host, try_connect(host, port, timeout)
        except (BgpyError, OSError) as exc:
            tried.append(f"{host}:{port} ({getattr(exc, 'reason', None) or exc})")
    if not tried:
        raise WslError("There is no other side of WSL to reach from here")
    raise WslError("The server runs on the other side, but no address leads to it", tuple(tried))


def far_start(
    target: Target,
    request: Mapping[str, object],
    here: Surroundings,
    machine: Machine | None = None,
    python: str | None = None,
    timeout: float = 60.0,
) -> dict[str, object]:
    """
    Start the server on the other side, or find it running there, and say where it is.

    A starter runs there, detaches the server by that side's own rules, waits until it is ready and ends. Blocks for at most
    `timeout` s (twice that, if WSL's way to Windows was stale).

    Parameters
    ----------
    request
        What the starter reads from its standard input as one JSON object, the token with it. Where ``host`` and ``port`` are
        missing or None, they are filled in.
    python
        The Python of the other side; None for BGPY_FAR_PYTHON, else ``python.exe`` on Windows and ``python3`` in WSL.

    Returns
    -------
    answer
        ``pid``, ``host`` and ``port`` as bound there, ``id`` and ``name``.

    Raises
    ------
    ServerStartError
        The other side could not start it; the reason is its own.
    WslError
        The other side could not be asked; it says what was tried.
    """
    filled = {**request, "host": request.get("host") or bind_address(target, here), "port": request.get("port") or 0}
    return _ask("start", target, filled, here, machine or Machine(), python, timeout)


def far_find(
    target: Target,
    request: Mapping[str, object],
    here: Surroundings,
    machine: Machine | None = None,
    python: str | None = None,
    timeout: float = 60.0,
) -> dict[str, object]:
    """
    Ask the other side where its server of that name is. As `far_start`, but starts nothing.

    Raises
    ------
    ServerNotFoundError
        No server of that name runs there.
    WslError
        The other side could not be asked; it says what was tried.
    """
    return _ask("find", target, request, here, machine or Machine(), python, timeout)


def _ask(
    verb: str,
    target: Target,
    request: Mapping[str, object],
    here: Surroundings,
    machine: Machine,
    python: str | None,
    timeout: float,
) -> dict[str, object]:
    """Run the other side's ``bgpy _far VERB NAME`` and return its answer, or raise what it or the way there says."""
    import json

    far = _far_python(target.side, target.distro, here, machine, python)
    argv = (*far, "-m", "bgpy", "_far", verb, target.name)
    command = " ".join(argv)
    try:
        finished = _run_far(argv, here, machine, timeout, json.dumps(request).encode("ascii") + b"\n")
    except OSError as exc:
        mend = _MISSING[target.side] if isinstance(exc, FileNotFoundError) else _INTEROP_MEND if here.in_wsl else ""
        raise WslError(f"{argv[0]} could not be run: {exc.strerror or exc}. {mend}".rstrip(". "), (command,)) from exc
    answer = _json_line(finished.stdout)
    if answer is not None:
        return _checked(answer, target)
    said = finished.last_words
    if token := str(request.get("token") or ""):
        # The other side never prints the request, but a broken one might, and this text ends in logs.
        said = said.replace(token, "(token)")
    if finished.code is None:
        late = f" The server may still come up there: bgpy.connect({str(target)!r})." if verb == "start" else ""
        raise WslError(f"The other side gave no answer within {timeout:g} s.{late} It said: {said}", (command,))
    mend = ""
    if "No module named" in said:
        mend = f" Install bgpy for it: {' '.join(far)} -m pip install bgpy."
    elif here.in_wsl and _interop_failed(said):
        mend = f" {_INTEROP_MEND}."
    raise WslError(f"The other side ended with code {finished.code} and no answer.{mend} It said: {said}", (command,))


def _run_far(argv: tuple[str, ...], here: Surroundings, machine: Machine, timeout: float, stdin: bytes = b"") -> Finished:
    """Run a program of the other side; once more over the newest interop socket where the one we inherited is stale."""
    # A Linux folder as the working directory upsets Windows programs, and in a folder that others may write to they could
    # plant modules for `python -m`: so the Windows folder. The starter leaves it for the user's home.
    cwd = "/mnt/c/Windows" if here.in_wsl and machine.exists("/mnt/c/Windows") else None
    # Messages of wsl.exe itself come in UTF-16 unless this is set (microsoft/WSL#4607).
    env = {"WSL_UTF8": "1"} if here.side == "windows" else {}
    failure: OSError | None = None
    finished = Finished(None, b"", b"")
    try:
        finished = machine.run(argv, timeout, stdin, cwd, **env)
        said = "" if _json_line(finished.stdout) else finished.text + finished.error_text
    except OSError as exc:
        failure, said = exc, str(exc)
    if here.in_wsl and _interop_failed(said):
        # WSL_INTEROP names a socket of the terminal we came from; in tmux and daemons it may be gone (microsoft/WSL#5065).
        socket = machine.newest("/run/WSL", "_interop")
        if socket is not None and socket != machine.environ.get("WSL_INTEROP"):
            return machine.run(argv, timeout, stdin, cwd, WSL_INTEROP=socket)
    if failure is not None:
        raise failure
    return finished


def _interop_failed(said: str) -> bool:
    return any(text in said for text in _INTEROP_FAILURES)


def _far_python(side: str, distro: str | None, here: Surroundings, machine: Machine, python: str | None) -> tuple[str, ...]:
    """Return the start of the command line that runs the other side's Python from here."""
    chosen = python or machine.environ.get("BGPY_FAR_PYTHON")
    if side == "windows" and here.in_wsl:
        return (chosen or "python.exe",)
    if side == "wsl" and here.side == "windows":
        return (*_wsl_argv(distro, machine), chosen or "python3")
    wanted = "from inside WSL" if side == "windows" else "from Windows"
    raise WslError(f"A server named {side}:... is reached {wanted}; this is {_side_text(here)}")


def _wsl_argv(distro: str | None, machine: Machine) -> tuple[str, ...]:
    # The full path, because Windows would look for a bare name in the working directory first.
    full = f"{machine.environ.get('SystemRoot', '')}\\System32\\wsl.exe"
    executable = full if machine.exists(full) else "wsl.exe"
    return (executable, "-d", distro, "--exec") if distro else (executable, "--exec")


def _checked(answer: dict[str, object], target: Target) -> dict[str, object]:
    """Return a good answer of the far starter; raise what a bad one says."""
    if answer["ok"] is True:
        kinds = {"host": str, "port": int, "id": str}
        if all(type(answer.get(key)) is kind for key, kind in kinds.items()):
            return answer
        raise WslError("The other side's answer lacks host, port or id: it may have another version of bgpy", (str(target),))
    kind, reason = str(answer.get("type")), str(answer.get("reason"))
    running = answer.get("running")
    if kind == "ServerNotFoundError":
        raise ServerNotFoundError(str(target), tuple(str(name) for name in running) if isinstance(running, list) else ())
    if kind == "ServerStartError":
        raise ServerStartError(reason, str(answer.get("traceback") or ""))
    raise WslError(f"The other side said: {kind}: {reason}".rstrip("."), (str(target),))


def _json_line(raw: bytes) -> dict[str, object] | None:
    """Return the last line that is an answer; Windows may put noise, a BOM, CRLF or UTF-16 around it."""
    import json

    # The answer is ASCII, so without the NULs its UTF-16 reads as UTF-8, even if other lines are in another encoding.
    for line in reversed(raw.replace(b"\0", b"").decode("utf-8", "replace").splitlines()):
        try:
            answer = json.loads(line.strip().lstrip("\ufeff\ufffd"))
        except ValueError:
            continue
        if isinstance(answer, dict) and isinstance(answer.get("ok"), bool):
            return answer
    return None


def firewall_command(here: Surroundings, port: int | None = None) -> str | None:
    """
    Return the one command, for an administrator's PowerShell, that opens the Windows firewall; None where none helps.

    With NAT it lets WSL connect to a server on Windows. In mirrored mode the two sides need no rule, and it lets other machines
    connect to a server in WSL. It is never run from here. `port` None means all ports that Windows gives to who asks for port 0.
    """
    ports = port or _DYNAMIC_PORTS
    if here.side != "wsl2" or here.networking in ("virtioproxy", "none"):
        return None
    if here.networking == "mirrored":
        return (
            "New-NetFirewallHyperVRule -Name bgpy -DisplayName bgpy -Direction Inbound "
            f"-VMCreatorId '{_WSL_VM_CREATOR}' -Protocol TCP -LocalPorts {ports} -Action Allow"
        )
    return (
        "New-NetFirewallRule -DisplayName bgpy -Direction Inbound "
        f'-InterfaceAlias "vEthernet (WSL (Hyper-V firewall))" -Protocol TCP -LocalPort {ports} -Action Allow'
    )


def diagnose(machine: Machine | None = None, port: int | None = None) -> list[str]:
    """
    Return the lines of ``bgpy doctor`` about WSL: side, mode, addresses, what was tried, the firewall command. Holds no secret.

    Blocks while it asks the other side (at most 30 s a question); on Windows that wakes WSL. Raises nothing.
    """
    machine = machine or Machine()
    here = look_around(machine)
    side = f"Side: {_side_text(here)}"
    if here.in_wsl:
        return [f"{side}.", *_diagnose_wsl(here, machine, port)]
    if here.side == "windows":
        return [f"{side}.", *_diagnose_windows(here, machine, port)]
    return [f"{side}, without WSL: windows: and wsl: names mean nothing here, all else works."]


def _side_text(here: Surroundings) -> str:
    plain = {"windows": "Windows", "wsl1": "WSL 1", "wsl2": "WSL 2", "linux": "Linux", "macos": "macOS"}[here.side]
    distro = f", distro {here.distro}" if here.distro else ""
    mode = f", networking {here.networking or 'unknown (wslinfo gave no answer), taken for nat'}" if here.side == "wsl2" else ""
    return f"{plain}{distro}{mode}"


def _diagnose_wsl(here: Surroundings, machine: Machine, port: int | None) -> list[str]:
    windows = Target("windows", None, "doctor")
    addresses = other_side_candidates(here, far_addresses(windows, LOOPBACK, here, machine))
    lines = [f"Windows is tried at: {', '.join(addresses) or 'no address'}."]
    try:
        lines.append(f"A server started on Windows from here binds {bind_address(windows, here)}.")
    except WslError as exc:
        lines.append(f"{exc.reason}.")
    # Under systemd the entry has the longer name.
    entry = machine.read_text(_INTEROP_STATE) or machine.read_text(f"{_INTEROP_STATE}-late") or ""
    state = "on" if entry.startswith("enabled") else f"off. {_INTEROP_MEND}"
    lines.append(f"Interop (Windows programs run from here): {state}.")
    lines.append(_try_far_python("windows", here, machine))
    command = firewall_command(here, port)
    if command is None or here.networking == "mirrored":
        lines.append("Firewall: no rule is needed between the two sides.")
        # Other machines are not our business unless a port is named: a rule for all ports would open more than anybody asked for.
        return lines + ([f"For other machines to reach port {port} of this WSL: {command}"] if command and port else [])
    return [*lines, f"{_FIREWALL_HINT}: {command}"]


def _diagnose_windows(here: Surroundings, machine: Machine, port: int | None) -> list[str]:
    wsl = _wsl_argv(None, machine)
    listing = (wsl[0], "--list", "--quiet")
    try:
        finished = machine.run(listing, 30, WSL_UTF8="1")
    except OSError as exc:
        finished = Finished(1, b"", str(exc.strerror or exc).encode())
    distros = [line.strip() for line in finished.text.splitlines() if line.strip()]
    if finished.code != 0 or not distros:
        return [f"Tried {' '.join(listing)}: {finished.last_words}. Without WSL, wsl: names mean nothing here; all else works."]
    mode = _networking(machine, wsl, timeout=30)
    addresses = other_side_candidates(here, far_addresses(Target("wsl", None, "doctor"), LOOPBACK, here, machine))
    lines = [
        f"WSL distros: {', '.join(distros)}.",
        f"Networking of WSL: {mode or 'unknown (wslinfo gave no answer)'}.",
        f"WSL is tried at: {', '.join(addresses)}.",
        _try_far_python("wsl", here, machine),
        "Firewall: no rule is needed from Windows to WSL.",
    ]
    command = firewall_command(Surroundings("wsl2", mode), port)
    return [*lines, f"{_FIREWALL_HINT}: {command}"] if command and mode != "mirrored" else lines


def _try_far_python(side: str, here: Surroundings, machine: Machine) -> str:
    """Say whether the other side's Python is found and has bgpy."""
    argv = (*_far_python(side, None, here, machine, None), "-m", "bgpy", "version")
    tried = f"Tried {' '.join(argv)}:"
    try:
        finished = _run_far(argv, here, machine, 30)
    except OSError as exc:
        return f"{tried} {exc.strerror or exc}. {_MISSING[side]}."
    if finished.code == 0:
        return f"{tried} {finished.text.strip() or 'it printed nothing'}."
    return f"{tried} {'no answer within 30 s' if finished.code is None else finished.last_words}. That Python must have bgpy."
