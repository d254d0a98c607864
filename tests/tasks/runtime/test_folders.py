"""Folders of runs go with their server, however it ends, and never with another one's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from bgpy.errors import TokenError
from bgpy.tasks.runtime.folders import Folders, remove_tree

#: Makes the folder of a run, tells its path, and waits to be killed.
OWNER = """\
import sys
from bgpy.tasks.runtime.folders import Folders
folders = Folders(sys.argv[1])
path = folders.make()
open(path + "/file", "w").close()
print(path, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def owner(root: Path) -> Iterator[subprocess.Popen[str]]:
    """Return a process that has a folder there; its path is its first line."""
    command = [sys.executable, "-c", OWNER, str(root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def test_each_run_has_a_fresh_folder_of_this_user_alone(root: Path) -> None:
    with closing(Folders(str(root))) as folders:
        paths = [folders.make() for _ in range(3)]
        assert len(set(paths)) == 3
        assert {os.path.dirname(path) for path in paths} == {folders.path}
        if os.name == "posix":
            assert {os.stat(path).st_mode & 0o777 for path in [*paths, folders.path, str(root)]} == {0o700}


def test_nothing_is_left_at_the_end(root: Path) -> None:
    folders = Folders(str(root))
    Path(folders.make(), "file").touch()
    folders.close()
    folders.close()
    assert list(root.iterdir()) == []


def test_by_default_they_are_among_the_files_of_this_user(bgpy_home: Path) -> None:
    with closing(Folders()) as folders:
        assert Path(folders.path).is_relative_to((bgpy_home / "runs").resolve())


def test_what_a_killed_server_has_left_is_removed_by_the_next(root: Path, owner: subprocess.Popen[str]) -> None:
    assert owner.stdout is not None
    path = Path(owner.stdout.readline().strip())
    assert (path / "file").exists()
    owner.send_signal(signal.SIGKILL) if os.name == "posix" else owner.kill()
    owner.wait(10)
    assert (path / "file").exists()
    with closing(Folders(str(root))) as folders:
        assert sorted(entry.name for entry in root.iterdir()) == sorted(
            [os.path.basename(folders.path), os.path.basename(folders.path) + ".lock"]
        )


def test_what_a_living_server_has_is_left_alone(root: Path, owner: subprocess.Popen[str]) -> None:
    assert owner.stdout is not None
    path = Path(owner.stdout.readline().strip())
    Folders(str(root)).close()
    with closing(Folders(str(root))):
        assert (path / "file").exists()


def test_nothing_but_folders_with_a_lock_is_swept(root: Path) -> None:
    root.mkdir(0o700)
    (root / "kept").mkdir()
    (root / "notes.txt").write_text("mine")
    Folders(str(root)).close()
    assert sorted(entry.name for entry in root.iterdir()) == ["kept", "notes.txt"]


@pytest.mark.skipif(os.name != "posix", reason="modes are of POSIX")
def test_a_folder_that_others_may_enter_is_not_used(root: Path) -> None:
    root.mkdir(0o755)
    with pytest.raises(TokenError, match="open to other users"):
        Folders(str(root))


def test_a_tree_is_removed_whatever_its_modes_and_no_link_is_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(0o755)
    (outside / "file").write_text("kept")
    mode = outside.stat().st_mode
    tree = tmp_path / "tree"
    (tree / "a/b").mkdir(parents=True)
    (tree / "a/b/file").touch()
    (tree / "link").symlink_to(outside)
    (tree / "a").chmod(0o500)
    tree.chmod(0o500)
    remove_tree(str(tree))
    assert not tree.exists()
    assert (outside / "file").read_text() == "kept"
    assert outside.stat().st_mode == mode
    remove_tree(str(tree))
