from __future__ import annotations

import hashlib
import hmac
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from bgpy import token as tokens
from bgpy.errors import TokenError
from bgpy.token import check_token_strength, derive_key, find_token, forget_environment_token, token_create


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    monkeypatch.setenv("BGPY_HOME", str(folder))
    monkeypatch.delenv("BGPY_TOKEN", raising=False)
    return folder


def test_made_tokens_differ_and_are_long_enough() -> None:
    made = {token_create() for _ in range(10)}
    assert len(made) == 10
    for token in made:
        check_token_strength(token, loopback=False)


@pytest.mark.parametrize("token", ["given", ""])
def test_a_given_token_is_used_as_it_is(token: str, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("BGPY_TOKEN", "other")
    assert find_token(token) == token
    assert not home.exists()


def test_half_a_character_is_refused_in_words() -> None:
    with pytest.raises(TokenError, match="halves of characters") as refusal:
        find_token("\ud800")
    assert refusal.value.__context__ is None  # Python's own error has the token
    assert find_token("\udc80") == "\udc80"  # what the environment has for a byte that is no text


def test_the_environment_comes_before_the_file(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("BGPY_TOKEN", "from the environment")
    assert find_token() == "from the environment"
    assert not home.exists()
    assert forget_environment_token() == "from the environment"
    assert "BGPY_TOKEN" not in os.environ
    assert forget_environment_token() is None


def test_an_empty_variable_does_not_switch_the_token_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BGPY_TOKEN", "")
    with pytest.raises(TokenError, match="BGPY_TOKEN is set but empty"):
        find_token()


def test_the_file_is_made_once_for_this_user_alone(home: Path) -> None:
    old = os.umask(0)
    try:
        token = find_token()
    finally:
        os.umask(old)
    assert find_token() == token
    assert [path.name for path in home.iterdir()] == ["token"]
    assert (home / "token").read_text() == token + "\n"
    assert stat.S_IMODE((home / "token").stat().st_mode) == 0o600
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


def test_twenty_processes_at_once_agree(home: Path) -> None:
    """Each is started, says that it has loaded its modules, and goes when all have."""
    code = "import sys; from bgpy.token import find_token; print('loaded', flush=True); sys.stdin.readline(); print(find_token())"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    root = os.path.dirname(os.path.dirname(os.path.abspath(tokens.__file__)))
    environment = {**os.environ, "PYTHONPATH": root}
    processes = [subprocess.Popen([sys.executable, "-c", code], **pipes, text=True, env=environment) for _ in range(20)]  # type: ignore[call-overload]
    try:
        for process in processes:
            assert process.stdout.readline() == "loaded\n"
        for process in processes:
            process.stdin.write("\n")
            process.stdin.flush()
        found = {process.communicate(timeout=30)[0] for process in processes}
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert found == {(home / "token").read_text()}
    assert [path.name for path in home.iterdir()] == ["token"]


def test_who_comes_second_takes_the_token_of_the_first(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """The moment between "there is none" and "here is mine" belongs to another process here."""
    make = tokens._make

    def late(path: str) -> None:
        with open(tokens.open_private(path, os.O_WRONLY | os.O_CREAT), "w") as file:
            file.write("the first one's\n")
        make(path)

    monkeypatch.setattr(tokens, "_make", late)
    assert find_token() == "the first one's"
    assert [path.name for path in home.iterdir()] == ["token"]


def test_a_token_of_the_users_own_is_read(home: Path) -> None:
    home.mkdir(0o700)
    (home / "token").touch(0o600)
    (home / "token").write_text(" schlüssel \n", encoding="utf-8")
    assert find_token() == "schlüssel"


@pytest.mark.parametrize(
    ("content", "mode", "text"), [("", 0o600, "is empty"), ("secret", 0o640, "chmod 600"), ("secret", 0o604, "chmod 600")]
)
def test_a_file_that_cannot_be_trusted_is_refused(content: str, mode: int, text: str, home: Path) -> None:
    home.mkdir(0o700)
    (home / "token").write_text(content)
    (home / "token").chmod(mode)
    with pytest.raises(TokenError, match=text) as caught:
        find_token()
    assert "secret" not in str(caught.value)


def test_links_and_pipes_are_refused(home: Path) -> None:
    home.mkdir(0o700)
    (home / "elsewhere").touch(0o600)
    (home / "elsewhere").write_text("secret")
    (home / "token").symlink_to(home / "elsewhere")
    with pytest.raises(TokenError, match="is a link"):
        find_token()
    (home / "token").unlink()
    os.mkfifo(home / "token", 0o600)  # opening it must not wait for a writer either
    with pytest.raises(TokenError, match="no regular file"):
        find_token()


def test_a_folder_that_others_may_enter_is_refused(home: Path) -> None:
    home.mkdir()
    home.chmod(0o750)
    with pytest.raises(TokenError, match="chmod 700"):
        find_token()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_belongs_to_others_is_refused(home: Path) -> None:
    find_token()
    os.chown(home / "token", 12345, -1)
    with pytest.raises(TokenError, match="belongs to user 12345"):
        find_token()
    os.chown(home, 12345, -1)
    with pytest.raises(TokenError, match="belongs to user 12345"):
        find_token()


def test_short_tokens_are_for_loopback_only() -> None:
    check_token_strength("short", loopback=True)
    check_token_strength("x" * 22, loopback=False)
    with pytest.raises(TokenError, match="21 characters") as caught:
        check_token_strength("guessable" + "x" * 12, loopback=False)
    assert "guessable" not in str(caught.value) + repr(caught.value)


def test_each_purpose_has_its_own_key() -> None:
    root = hmac.new(b"t", b"bgpy1 root", hashlib.sha256).digest()
    assert derive_key("t", "proof") == hmac.new(root, b"proof", hashlib.sha256).digest()
    keys = {derive_key(token, purpose) for token in ("t", "u") for purpose in tokens.PURPOSES}
    assert len(keys) == 10
    with pytest.raises(ValueError, match="Unknown purpose"):
        derive_key("t", "other")
