from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import bgpy.records
from bgpy.errors import NameTakenError, ServerStartError, TokenError
from bgpy.records import Record, Registry, check_name, unnamed_key
from bgpy.system import close_locked, open_locked, process_start_time

ID = "0123456789abcdef0123456789abcdef"
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(bgpy.records.__file__)))


def make_record(name: str | None = "models", host: str = "127.0.0.1", port: int = 4000, *, pid: int | None = None) -> Record:
    pid = os.getpid() if pid is None else pid
    return Record(name, ID, host, port, pid, process_start_time(pid) or "", 1.5, "/log", sys.executable, "0.4.0")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "records"


@pytest.fixture
def registry(folder: Path) -> Registry:
    return Registry(str(folder))


@pytest.fixture
def other_holder(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A real process that holds "models", with its record, until it is killed or told to go on."""
    code = f"""if True:
        import os, sys
        from bgpy.records import Record, Registry
        from bgpy.system import process_start_time
        held = Registry({str(folder)!r}).hold("models", {ID!r})
        held.publish(Record("models", {ID!r}, "127.0.0.1", 4000, os.getpid(), process_start_time(os.getpid()), 1.5, None, "", ""))
        print("held", flush=True)
        sys.stdin.readline()
        held.release()
        """
    environment = {**os.environ, "PYTHONPATH": ROOT}
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_published_record_is_found_until_it_is_released(registry: Registry, folder: Path) -> None:
    held = registry.hold("models", ID)
    assert registry.find("models") is None
    assert registry.running() == []
    held.publish(make_record())
    assert registry.find("models") == make_record()
    assert registry.running() == [make_record()]
    assert stat.S_IMODE((folder / "models.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    held.release()
    held.release()
    assert registry.find("models") is None
    assert sorted(os.listdir(folder)) == [".lock", "models.lock"]
    with pytest.raises(ValueError, match="released"):
        held.publish(make_record())


def test_a_name_is_taken_while_its_server_runs(registry: Registry, other_holder: subprocess.Popen[str]) -> None:
    with pytest.raises(NameTakenError) as caught:
        registry.hold("models", ID)
    assert (caught.value.name, caught.value.pid) == ("models", other_holder.pid)
    other_holder.communicate("\n")
    registry.hold("models", ID).release()


def test_a_name_is_taken_before_its_record_is_there(registry: Registry) -> None:
    held = registry.hold("models", ID)
    with pytest.raises(NameTakenError) as caught:
        registry.hold("models", ID)
    assert caught.value.pid is None
    held.release()


def test_a_killed_servers_record_misleads_nobody(registry: Registry, folder: Path, other_holder: subprocess.Popen[str]) -> None:
    found = registry.find("models")
    assert found is not None
    assert found.pid == other_holder.pid
    other_holder.send_signal(signal.SIGKILL)
    other_holder.wait()
    assert (folder / "models.json").exists()
    assert registry.find("models") is None
    assert not (folder / "models.json").exists()


def test_a_new_server_does_not_inherit_a_killed_ones_record(registry: Registry, other_holder: subprocess.Popen[str]) -> None:
    other_holder.send_signal(signal.SIGKILL)
    other_holder.wait()
    held = registry.hold("models", ID)
    assert registry.find("models") is None
    held.release()


def test_a_reused_pid_misleads_nobody(registry: Registry, folder: Path) -> None:
    """The record names a process that lives, and even its start time; but nobody holds the lock."""
    registry.hold("models", ID).release()
    (folder / "models.json").touch(0o600)
    (folder / "models.json").write_text(json.dumps(make_record(pid=os.getppid())._asdict()))
    assert registry.find_address("127.0.0.1", 4000) is None
    assert registry.running() == []


@pytest.mark.parametrize("content", ["", "[]", "{}", "null", '{"name": "models"}'])
def test_a_record_that_is_none_is_as_good_as_none(content: str, registry: Registry, folder: Path) -> None:
    held = registry.hold("models", ID)
    (folder / "models.json").touch(0o600)
    (folder / "models.json").write_text(content)
    assert registry.find("models") is None
    held.release()


def test_fields_of_a_later_version_are_ignored(registry: Registry, folder: Path) -> None:
    held = registry.hold("models", ID)
    (folder / "models.json").touch(0o600)
    (folder / "models.json").write_text(json.dumps({**make_record()._asdict(), "later": 1}))
    assert registry.find("models") == make_record()
    held.release()


def test_a_record_that_others_may_write_is_refused(registry: Registry, folder: Path) -> None:
    held = registry.hold("models", ID)
    held.publish(make_record())
    (folder / "models.json").chmod(0o666)
    with pytest.raises(TokenError, match="chmod 600"):
        registry.find("models")
    held.release()


def test_unnamed_servers_leave_nothing(registry: Registry, folder: Path) -> None:
    held = registry.hold(None, ID)
    assert held.key == unnamed_key(ID) == "+0123456789ab"
    held.publish(make_record(None))
    assert registry.running() == [make_record(None)]
    held.release()
    assert os.listdir(folder) == [".lock"]


def test_what_dead_unnamed_servers_left_is_cleaned_away(registry: Registry, folder: Path) -> None:
    """One died after it had published, one before."""
    for key, record in (("+aaaaaaaaaaaa", True), ("+bbbbbbbbbbbb", False)):
        held = registry.hold(None, key[1:])
        if record:
            held.publish(make_record(None))
        held.close_after_fork()  # closes without removing, as the death of the process does
    assert len(os.listdir(folder)) == 4
    assert registry.running() == []
    assert os.listdir(folder) == [".lock"]


def test_named_servers_are_listed_first(registry: Registry) -> None:
    held = [registry.hold(name, ID) for name in ("b", None, "a")]
    for each, name in zip(held, ("b", None, "a"), strict=True):
        each.publish(make_record(name))
    assert [record.name for record in registry.running()] == ["a", "b", None]
    for each in held:
        each.release()


def test_looking_for_a_name_leaves_no_file(registry: Registry, folder: Path) -> None:
    assert registry.find("mistyped") is None
    assert os.listdir(folder) == [".lock"]


def test_looking_does_not_disturb_a_server_that_starts(registry: Registry, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks holds the server's lock for an instant; a start in that very instant waits instead of giving up."""
    registry.hold("models", ID).close_after_fork()
    (folder / "models.json").touch(0o600)
    remove, starter = bgpy.records._remove, threading.Thread()
    outcome: list[object] = []

    def start() -> None:
        try:
            outcome.append(registry.hold("models", ID))
        except NameTakenError as error:
            outcome.append(error)

    def remove_slowly(folder: str, key: str, *, keep_lock: bool = False) -> None:
        nonlocal starter
        if threading.current_thread() is threading.main_thread():
            starter = threading.Thread(target=start)
            starter.start()
            starter.join(0.2)  # without the folder's lock it has failed by then
        remove(folder, key, keep_lock=keep_lock)

    monkeypatch.setattr(bgpy.records, "_remove", remove_slowly)
    assert registry.find("models") is None
    starter.join()
    assert [type(each) for each in outcome] == [bgpy.records.HeldRecord]
    outcome[0].release()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("bound", "asked", "found"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "::ffff:127.0.0.1", True),
        ("localhost", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("0.0.0.0", "127.0.0.1", True),
        ("::", "0.0.0.0", True),
        ("0.0.0.0", "192.0.2.1", False),
        ("name that is gone", "127.0.0.1", False),
        ("name that is gone", "name that is gone", True),
    ],
)
def test_servers_are_found_by_what_their_address_means(bound: str, asked: str, found: bool, registry: Registry) -> None:
    held = registry.hold("models", ID)
    held.publish(make_record(host=bound))
    assert registry.find_address(asked, 4000) == (make_record(host=bound) if found else None)
    assert registry.find_address(asked, 4001) is None
    held.release()


def test_a_forked_child_does_not_keep_a_dead_servers_name(registry: Registry, folder: Path) -> None:
    """The child closes its copy; the server's own lock holds on, and ends with the server though the child lives."""
    held = registry.hold("models", ID)
    closed_read, closed_write = os.pipe()
    go_read, go_write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(go_write)
        held.close_after_fork()
        os.write(closed_write, b"x")
        os.read(go_read, 1)
        os._exit(0)
    os.close(go_read)
    assert os.read(closed_read, 1) == b"x"
    with pytest.raises(NameTakenError):
        registry.hold("models", ID)
    held.close_after_fork()  # as the end of the process would: no unlocking, only the descriptor goes
    registry.hold("models", ID).release()
    os.close(go_write)
    os.waitpid(child, 0)
    os.close(closed_read)
    os.close(closed_write)


def test_a_release_frees_the_name_though_a_child_still_holds_a_copy(registry: Registry) -> None:
    held = registry.hold("models", ID)
    go_read, go_write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(go_write)
        os.read(go_read, 1)
        os._exit(0)
    held.release()
    registry.hold("models", ID).release()
    os.close(go_write)
    os.close(go_read)
    os.waitpid(child, 0)


def test_one_starter_at_a_time(registry: Registry) -> None:
    inside, entered = threading.Event(), threading.Event()

    def second() -> None:
        with registry.starting("models", 10):
            entered.set()

    thread = threading.Thread(target=second)
    with registry.starting("models", 1):
        thread.start()
        with pytest.raises(ServerStartError, match=r"has been starting 'models' for 0\.05 s"), registry.starting("models", 0.05):
            inside.set()
        assert not inside.is_set()
        assert not entered.is_set()
        with registry.starting("others", 0):
            pass
    thread.join(10)
    assert entered.is_set()


def test_a_start_given_up_leaves_no_lock(registry: Registry, folder: Path) -> None:
    """The thread that waited for the lock gets it too late, and must drop it."""
    before = set(threading.enumerate())
    with registry.starting("models", 1), pytest.raises(ServerStartError), registry.starting("models", 0.01):
        pass
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
    with registry.starting("models", 0):
        pass


def test_a_stopped_process_does_not_block_for_ever(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bgpy.records, "_FOLDER_TIMEOUT", 0.05)
    fd = open_locked(os.path.join(registry.folder, ".lock"))
    assert fd is not None
    started = time.monotonic()
    with pytest.raises(TimeoutError, match="has been locked"):
        registry.running()
    assert time.monotonic() - started < 5
    close_locked(fd)


@pytest.mark.parametrize("name", ["a", "A-z_0.9", "x" * 64, "-", "_."])
def test_good_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", ".a", "..", "a/b", "a b", "+a", "x" * 65, "ä", "a\n", "windows:a"])
def test_bad_names_are_refused_everywhere(name: str, registry: Registry) -> None:
    text = re.escape(f"{name!r} cannot name a server")
    with pytest.raises(ValueError, match=text):
        registry.hold(name, ID)
    with pytest.raises(ValueError, match=text):
        registry.find(name)
    with pytest.raises(ValueError, match=text), registry.starting(name, 0):
        pass


def test_each_host_and_boot_has_its_own_folder(bgpy_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(Registry().folder)
    assert folder.parent == bgpy_home / "servers"
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
    monkeypatch.setattr(bgpy.records, "boot_name", lambda: "01234567")
    assert Path(Registry().folder).name.endswith("-01234567")
    monkeypatch.setattr("socket.gethostname", lambda: "../héll")
    assert Path(Registry().folder).name == "___h_ll-01234567"
    monkeypatch.setattr(bgpy.records, "boot_name", lambda: "")
    assert Path(Registry().folder).name == "___h_ll"
