"""No name of a file leaves the folder of its run, on any system, and two never mean the same file."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bgpy.errors import RefusedError
from bgpy.tasks.runtime import uploads
from bgpy.tasks.runtime.uploads import MAX_FILES, MAX_NAME, Upload, check_names, check_upload, write_files

USABLE = [
    "main.py",
    "a/b/c.txt",
    ".hidden",
    "...a",
    " a",
    "a b.py",
    "größe.py",
    "数据.csv",
    "console.py",
    "com.py",
    "com10.txt",
    "aux_.py",
    "x" * MAX_NAME,
    "what?.txt",
]
REFUSED = {
    "": "1 to 200 characters",
    "x" * (MAX_NAME + 1): "1 to 200 characters",
    "..": "its part '..'",
    "../x.py": "its part '..'",
    "a/../../x.py": "its part '..'",
    "a/..": "its part '..'",
    ".": "its part '.'",
    "./x.py": "its part '.'",
    "a//x.py": "its part ''",
    "a/": "its part ''",
    "/etc/passwd": "not relative",
    "/": "not relative",
    "//host/share/x": "not relative",
    "C:/x.py": "the character ':'",
    "c:x.py": "the character ':'",
    "x.py:stream": "the character ':'",
    "a\\b.py": "the character '\\\\'",
    "..\\x.py": "the character '\\\\'",
    "\\\\?\\C:\\x": "the character '\\\\'",
    "a\0.py": "control character",
    "a\n.py": "control character",
    "a\x7f.py": "control character",
    "a\x9b.py": "control character",
    "a\ud800.py": "control character",
    "a.": "ends with a dot or a space",
    "a ": "ends with a dot or a space",
    "a./b.py": "ends with a dot or a space",
    "a /b.py": "ends with a dot or a space",
    "con": "a device on Windows",
    "CON.py": "a device on Windows",
    "nul.tar.gz": "a device on Windows",
    "Aux": "a device on Windows",
    "a/prn.txt/b": "a device on Windows",
    "com1": "a device on Windows",
    "LPT9.log": "a device on Windows",
    "com².txt": "a device on Windows",
    "con .txt": "a device on Windows",
    "CONOUT$": "a device on Windows",
    "数" * 100: "more than 255 bytes",
}


def refusal_of(*names: str) -> str:
    with pytest.raises(RefusedError) as refused:
        check_names(names)
    assert refused.value.field == "files"
    return str(refused.value)


@pytest.mark.parametrize("name", USABLE)
def test_an_ordinary_name_can_be_used(name: str) -> None:
    check_names([name])


@pytest.mark.parametrize(("name", "reason"), REFUSED.items(), ids=range(len(REFUSED)))
def test_a_name_that_leaves_the_folder_or_means_something_else_somewhere_is_refused(name: str, reason: str) -> None:
    assert reason in refusal_of(name)


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["a.py", "a.py"], "comes twice"),
        (["a.py", "A.PY"], "'A.PY' and 'a.py' differ in case"),
        (["straße", "STRASSE"], "differ in case"),
        (["\u00e9.py", "e\u0301.py"], "form of letters alone"),
        (["\u00c9.py", "e\u0301.py"], "form of letters alone"),
        (["d/a.py", "D/b.py"], "'D' and 'd' differ in case"),
        (["x", "x/a.py"], "a file and a folder"),
        (["x/a.py", "x"], "a file and a folder"),
        (["X/a.py", "x"], "a file and a folder"),
        (["x/y/a.py", "x/y"], "a file and a folder"),
    ],
)
def test_two_names_that_some_system_takes_for_one_are_refused(names: list[str], reason: str) -> None:
    assert reason in refusal_of(*names)


def test_names_in_one_folder_are_no_doubles() -> None:
    check_names(["d/a.py", "d/b.py", "d/e/a.py", "a.py"])


PIECES = st.sampled_from(["a", "A", "ß", "SS", "é", "e\u0301", ".", "..", "/", "\\", ":", " ", "con", "\0", "x" * 90, "\ud800"])
NAMES = st.lists(PIECES, max_size=5).map("".join) | st.text(max_size=12)


@given(st.lists(NAMES, max_size=4))
@example(["a", "a/b"])
@example(["../a"])
def test_what_is_let_through_stays_in_its_folder_and_apart_property(names: list[str]) -> None:
    try:
        check_names(names)
    except RefusedError:
        return
    folder = os.path.abspath(os.sep + "folder")
    paths = [os.path.normpath(os.path.join(folder, name)) for name in names]
    assert all(path.startswith(folder + os.sep) for path in paths)
    folded = [unicodedata.normalize("NFC", path).casefold() for path in paths]
    assert len(set(folded)) == len(names)
    assert not any(one.startswith(other + os.sep) for one in folded for other in folded)


def file(name: str, content: str = "", encoding: str = "text") -> dict[str, Any]:
    return {"filename": name, "content": content, "encoding": encoding}


def test_a_number_that_differs_from_the_files_is_refused() -> None:
    with pytest.raises(RefusedError, match="says 2, but there are 1 files") as refused:
        check_upload(2, [file("a.py")], "a.py")
    assert refused.value.field == "number"


def test_a_main_file_that_is_not_among_the_files_is_refused() -> None:
    with pytest.raises(RefusedError, match=r"'b\.py' is not among the files") as refused:
        check_upload(1, [file("a.py")], "b.py")
    assert refused.value.field == "mainfile"
    with pytest.raises(RefusedError, match="'' is not among the files"):
        check_upload(0, [], "")


def test_too_many_files_are_refused() -> None:
    files = [file(f"{number}.py") for number in range(MAX_FILES + 1)]
    with pytest.raises(RefusedError, match="1,000 files at most, not 1,001"):
        check_upload(len(files), files, "0.py")
    assert len(check_upload(MAX_FILES, files[:MAX_FILES], "0.py")) == MAX_FILES


def test_too_large_files_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "MAX_SIZE", 10)
    with pytest.raises(RefusedError, match="10 bytes at most, not 11"):
        check_upload(2, [file("a.py", "12345"), file("b.py", "ééé")], "a.py")
    assert check_upload(1, [file("a.py", "1234567890")], "a.py") == [Upload("a.py", b"1234567890")]


def test_the_content_is_text_or_bytes_in_base64() -> None:
    files = [file("a.py", "é\r\n"), file("b.bin", "AP8=", "base64")]
    assert check_upload(2, files, "a.py") == [Upload("a.py", b"\xc3\xa9\r\n"), Upload("b.bin", b"\0\xff")]


@pytest.mark.parametrize(("content", "encoding"), [("\ud800", "text"), ("AP8", "base64"), ("A!P8=", "base64"), ("é", "base64")])
def test_content_that_cannot_be_read_is_refused(content: str, encoding: str) -> None:
    with pytest.raises(RefusedError, match=r"content of the file 'a\.py' cannot be read") as refused:
        check_upload(1, [file("a.py", content, encoding)], "a.py")
    assert refused.value.field == "files"


def test_files_are_written_as_they_came_and_for_this_user_alone(tmp_path: Path) -> None:
    write_files(str(tmp_path), [Upload("a.py", b"1\r\n"), Upload("d/e/b.bin", b"\0"), Upload("d/c", b"")])
    assert (tmp_path / "a.py").read_bytes() == b"1\r\n"
    assert (tmp_path / "d/e/b.bin").read_bytes() == b"\0"
    assert sorted(path.name for path in (tmp_path / "d").iterdir()) == ["c", "e"]
    if os.name == "posix":
        assert (tmp_path / "a.py").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("target", ["there", "nowhere"])
def test_nothing_is_written_over_or_through_a_link(tmp_path: Path, target: str) -> None:
    (tmp_path / "there").write_text("kept")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.py").symlink_to(tmp_path / target)
    with pytest.raises(FileExistsError):
        write_files(str(folder), [Upload("a.py", b"new")])
    assert (tmp_path / "there").read_text() == "kept"
    assert not (tmp_path / "nowhere").exists()
