"""The user's own modules travel with the objects that need them."""

from __future__ import annotations

import datetime
import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support.modules import forget, write

from bgpy.errors import SerializationError
from bgpy.protocol import modules
from bgpy.protocol.messages import dump, load
from bgpy.protocol.shipped import ShippedModules, join, split


def load_it(payload: Any) -> Any:
    """Unpickle a message and return the one thing in it."""
    message: Any = load(payload.pickle, payload.buffers)
    return message["it"]


# Which modules travel


@pytest.mark.parametrize("obj", [json.dumps, datetime.date(2020, 1, 1), pytest.raises, SerializationError("x")])
def test_standard_library_installed_packages_and_bgpy_travel_by_name_alone(obj: object) -> None:
    payload = dump({"it": obj})
    assert payload.pickle[0] == 0x80
    assert not payload.by_value


def test_a_folder_with_dist_info_is_an_installation_folder(user_folder: Path) -> None:
    (user_folder / "users_target-1.0.dist-info").mkdir()
    module = write(user_folder, "users_target", "def f(): pass\n")
    assert dump({"it": module.f}).pickle[0] == 0x80


def test_a_module_of_the_user_may_have_the_name_of_one_of_the_standard_library(sides: Any) -> None:
    sides.add({"this.py": "def answer(): return 42\n"})
    sides.on_client("import this; write('m', {'f': this.answer})")
    assert sides.on_server("print(read('m')['f']())") == "42"


def test_a_function_of_a_users_module_travels_by_name_with_its_source(user_folder: Path) -> None:
    module = write(user_folder, "users_plain", "def f(): return 1\n")
    payload = dump({"it": module.f})
    [shipped], rest = split(payload.pickle)
    assert shipped == ("users_plain", shipped.version, "def f(): return 1\n", False, str(user_folder / "users_plain.py"))
    assert len(shipped.version) == 64
    assert not payload.by_value
    assert rest[0] == 0x80


def test_the_source_that_travels_is_the_one_that_runs_until_the_module_is_imported_again(user_folder: Path) -> None:
    module = write(user_folder, "users_saved", "def f(): return 1\n")
    first = dump({"it": module.f})
    (user_folder / "users_saved.py").write_text("def f(): return 2222\n")
    assert dump({"it": module.f}) == first
    importlib.reload(module)
    assert split(dump({"it": module.f}).pickle)[0][0].source == "def f(): return 2222\n"


def test_imports_are_found_at_every_depth_without_importing_them(user_folder: Path) -> None:
    (user_folder / "users_lazy.py").write_text("raise RuntimeError('imported')\n")
    module = write(user_folder, "users_eager", "def f():\n    if True:\n        import users_lazy\n    import users_missing\n")
    names = [shipped.name for shipped in split(dump({"it": module.f}).pickle)[0]]
    assert names == ["users_eager", "users_lazy"]
    assert "users_lazy" not in sys.modules


@pytest.mark.parametrize(
    ("source", "package", "names"),
    [
        ("import a.b, c as d", "p", ("a.b", "c")),
        ("from a import b", "p", ("a", "a.b")),
        ("from . import b", "p.q", ("p.q", "p.q.b")),
        ("from ..r import s", "p.q", ("p.r", "p.r.s")),
        ("from ....r import s", "p", ("r", "r.s")),
        ("from a import *", "", ("a", "a.*")),
        ("def", "p", ()),
        ("x = '\\ud800'", "p", ()),
    ],
)
def test_imported_names_are_absolute(source: str, package: str, names: tuple[str, ...]) -> None:
    assert modules._imports(source, package) == names


def test_the_version_changes_with_the_source_of_what_is_imported(user_folder: Path) -> None:
    versions = set()
    for value in (1, 2):
        write(user_folder, "users_below", f"VALUE = {value * 1000}\n")
        module = write(user_folder, "users_above", "from users_below import VALUE\ndef f(): return VALUE\n")
        versions.add(split(dump({"it": module.f}).pickle)[0][0].version)
        forget("users_below")
        forget("users_above")
        (user_folder / "users_below.py").unlink()
    assert len(versions) == 2


def test_modules_that_import_each_other_travel(sides: Any) -> None:
    sides.add({"a.py": "import b\ndef f(): return b.g()\n", "b.py": "import a\ndef g(): return a.__name__ + __name__\n"})
    sides.on_client("import a; write('m', {'f': a.f})")
    assert sides.on_server("print(read('m')['f']())") == "ab"


def test_a_module_made_at_run_time_travels_by_value() -> None:
    module = ModuleType("users_made")
    sys.modules["users_made"] = module
    try:
        exec("class C: pass\ndef f(): return C\n", vars(module))
        payload = dump({"f": module.f, "c": module.C})
    finally:
        del sys.modules["users_made"]
    assert payload.by_value
    message: Any = load(payload.pickle, payload.buffers)
    assert message["f"]().__name__ == "C"


def test_a_parent_that_has_no_file_travels_as_an_empty_package(user_folder: Path) -> None:
    """pytest puts such parents above test modules, and plug-in systems above plug-ins."""
    parent = ModuleType("users_bare")
    parent.__path__ = [str(user_folder)]
    sys.modules["users_bare"] = parent
    (user_folder / "child.py").write_text("def f(): return 1\n")
    payload = dump({"it": importlib.import_module("users_bare.child").f})
    assert [(m.name, m.source, m.is_package) for m in split(payload.pickle)[0]] == [
        ("users_bare", None, True),
        ("users_bare.child", "def f(): return 1\n", False),
    ]
    forget("users_bare")
    (user_folder / "child.py").unlink()
    assert load_it(payload)() == 1


def test_a_shipped_module_is_shipped_on_wherever_it_lay_on_the_side_it_came_from(user_folder: Path) -> None:
    here = Path(json.__file__).parent / "users_far.py"
    ShippedModules.of_process().install([modules.Shipped("users_far", "1", "def f(): pass\n", False, str(here))])
    [shipped], _ = split(dump({"it": importlib.import_module("users_far").f}).pickle)
    assert shipped[2:] == ("def f(): pass\n", False, str(here))


# One process, several threads


def test_a_replaced_submodule_is_no_longer_an_attribute_of_its_package(user_folder: Path) -> None:
    finder = ShippedModules.of_process()
    package = modules.Shipped("users_pkg", "p", "", True, "pkg")
    finder.install([package, modules.Shipped("users_pkg.sub", "1", "V = 1", False, "sub")])
    old = importlib.import_module("users_pkg.sub")
    finder.install([package, modules.Shipped("users_pkg.sub", "2", "V = 2", False, "sub")])
    names: dict[str, Any] = {}
    exec("from users_pkg import sub", names)
    assert (old.V, names["sub"].V) == (1, 2)
    finder.install([package, modules.Shipped("users_pkg.sub", "1", "V = 1", False, "sub")])
    exec("from users_pkg import sub", names)
    assert names["sub"] is old
    assert vars(sys.modules["users_pkg"])["sub"] is old


def test_a_replaced_package_takes_its_shipped_submodules_with_it(user_folder: Path) -> None:
    finder = ShippedModules.of_process()
    sub = modules.Shipped("users_pkg.sub", "1", "from users_pkg import V", False, "sub")
    finder.install([modules.Shipped("users_pkg", "1", "V = 1", True, "pkg"), sub])
    assert importlib.import_module("users_pkg.sub").V == 1
    finder.install([modules.Shipped("users_pkg", "2", "V = 2", True, "pkg")])
    assert importlib.import_module("users_pkg.sub").V == 2


def test_only_the_last_versions_are_kept(user_folder: Path) -> None:
    finder = ShippedModules.of_process()
    for version in range(12):
        finder.install([modules.Shipped("users_edited", str(version), f"V = {version}", False, "edited")])
        assert importlib.import_module("users_edited").V == version
    assert list(finder._replaced["users_edited"]) == [str(version) for version in range(3, 11)]


def test_there_is_one_finder_for_the_process(user_folder: Path) -> None:
    first = ShippedModules.of_process()
    assert sys.meta_path[0] is first
    sys.meta_path.insert(0, ShippedModules())  # what a second thread does that looked at the same moment
    assert ShippedModules.of_process() is first


def test_two_connections_with_different_versions_each_get_their_own(sides: Any) -> None:
    """The module is swapped by each message; without the lock one thread unpickles with the other one's module."""
    for version in ("a", "b"):
        sides.add(
            {"helpers.py": f"VERSION = '{version}'\nclass C:\n    V = VERSION\n    def __setstate__(self, s): self.s = s\n"}
        )
        sides.on_client(
            f"import helpers\nm = [helpers.C() for _ in range(50)]\nfor c in m: c.s = 1\nwrite('{version}', {{'c': m}})"
        )
    out = sides.on_server(
        """
        sys.setswitchinterval(1e-6)
        wrong = []
        def many(name):
            for _ in range(200):
                wrong.extend(c for c in read(name)['c'] if c.V != name)
        threads = [threading.Thread(target=many, args=(name,)) for name in 'abab']
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        print(len(wrong))
        """
    )
    assert out == "0"


# The list of modules on the wire


def test_the_list_of_modules_has_this_layout() -> None:
    module = modules.Shipped("m", "v", "x = 1\n", False, "/m.py")
    data = join([module], b"\x80rest")
    assert data[:1] == b"\x01"
    assert int.from_bytes(data[1:9], "big") == len(data) - 9 - 5
    assert split(data) == ([module], b"\x80rest")


@pytest.mark.parametrize(
    "data",
    [b"", b"\x01", b"\x02" + bytes(20), b"\x01" + bytes(8), b"\x01" + bytes(7) + b"\x05" + b"?????", b"\x01" + b"\xff" * 8],
)
def test_anything_else_in_front_is_an_error(data: bytes) -> None:
    with pytest.raises(SerializationError):
        load(data)


@pytest.mark.parametrize(
    "listed", [[1], [("m",)], [(1, "v", "s", False, "f")], [("m", "v", b"s", False, "f")], [("m", "v", "s", 0, "f")], 7]
)
def test_a_list_of_something_else_is_an_error(listed: Any) -> None:
    import marshal

    body = marshal.dumps(listed, 2)
    with pytest.raises(SerializationError):
        load(b"\x01" + len(body).to_bytes(8, "big") + body + b"\x80")


def test_an_object_that_pickles_as_a_name_brings_its_module(sides: Any) -> None:
    """Its class, which would bring it, is not in the pickle."""
    sides.add({"singles.py": "class Missing:\n    def __reduce__(self): return 'MISSING'\nMISSING = Missing()\n"})
    sides.on_client("import singles; write('m', {'a': singles.MISSING})\nwrite('n', {'a': singles.MISSING, 'f': lambda: 1})")
    out = sides.on_server("m, n = read('m')['a'], read('n')['a']; import singles; print(m is n is singles.MISSING)")
    assert out == "True"
