"""The user's own modules travel with the objects that need them."""

from __future__ import annotations

import datetime
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bgpy.errors import SerializationError
from bgpy.protocol import modules
from bgpy.protocol.messages import dump, load
from bgpy.protocol.shipped import ShippedModules, join, split

HELPERS = """
    import dataclasses

    FACTOR = 2

    @dataclasses.dataclass
    class Point:
        x: int

        def doubled(self):
            return Point(self.x * FACTOR)

    def twice(value):
        return value * FACTOR
"""


@pytest.fixture
def user_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a folder on the path; what is imported from it is forgotten afterwards, and shipped modules are as well."""
    loaded, finders = set(sys.modules), list(sys.meta_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.meta_path[:] = finders
    for name in set(sys.modules) - loaded:
        if name.startswith("users_"):
            del sys.modules[name]


def write(folder: Path, name: str, text: str) -> ModuleType:
    """Write a module and import it."""
    path = folder / f"{name.replace('.', '/')}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    importlib.invalidate_caches()
    return importlib.import_module(name)


def forget(name: str) -> None:
    """Make this process the side that has never imported a module."""
    for loaded in [loaded for loaded in sys.modules if loaded == name or loaded.startswith(name + ".")]:
        del sys.modules[loaded]


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


# Another interpreter


def test_a_package_with_relative_imports_and_a_subpackage_works_elsewhere(sides: Any) -> None:
    sides.add(
        {
            "pkg/__init__.py": "from .top import VALUE\n",
            "pkg/top.py": "VALUE = 'top'\n",
            "pkg/sub/__init__.py": "",
            "pkg/sub/deep.py": """
                from .. import VALUE
                from . import sibling
                from ..other.tool import tool
                def f():
                    from .late import late
                    return VALUE, sibling.NAME, tool(), late()
            """,
            "pkg/sub/sibling.py": "NAME = __name__\n",
            "pkg/sub/late.py": "def late(): return 'late'\n",
            "pkg/other/tool.py": "def tool(): return 'tool'\n",
            "pkg/sub/unused.py": "",
        }
    )
    sides.on_client("import pkg.sub.deep; write('m', {'f': pkg.sub.deep.f})")
    names = [shipped.name for shipped in split(sides.payload("m").pickle)[0]]
    assert names == [
        "pkg",
        "pkg.other",
        "pkg.other.tool",
        "pkg.sub",
        "pkg.sub.deep",
        "pkg.sub.late",
        "pkg.sub.sibling",
        "pkg.top",
    ]
    assert sides.on_server("print(read('m')['f']())") == "('top', 'pkg.sub.sibling', 'tool', 'late')"


def test_a_star_import_of_submodules_works_elsewhere(sides: Any) -> None:
    sides.add(
        {
            "pkg/__init__.py": "__all__ = ['one']\n",
            "pkg/one.py": "V = 1\n",
            "uses.py": "from pkg import *\ndef f(): return one.V\n",
        }
    )
    sides.on_client("import uses; write('m', {'f': uses.f})")
    assert sides.on_server("print(read('m')['f']())") == "1"


def test_functions_of_main_use_users_modules_imported_above_and_inside(sides: Any) -> None:
    sides.add(
        {"helpers.py": HELPERS, "inner.py": "def g(): return 'g'\n", "pkg/__init__.py": "", "pkg/mod.py": "def h(): return 'h'\n"}
    )
    sides.on_client(
        """
        import helpers
        def above(): return helpers.twice(4)
        def inside():
            import inner
            from pkg.mod import h
            def deeper():
                from pkg import mod
                return mod.h()
            return inner.g() + h() + deeper()
        write('m', {'above': above, 'inside': inside})
        """
    )
    assert sides.on_server("m = read('m'); print(m['above'](), m['inside']())") == "8 ghh"


def test_main_run_as_a_module_of_a_package_imports_relatively_elsewhere(sides: Any) -> None:
    sides.add({"pkg/__init__.py": "", "pkg/tool.py": "def tool(): return 'tool'\n"})
    sides.on_client(
        """
        __package__ = 'pkg'
        def inside():
            from .tool import tool
            from . import tool as module
            return tool() + module.__name__
        write('m', {'f': inside})
        """
    )
    assert sides.on_server("print(read('m')['f']())") == "toolpkg.tool"


def test_closures_of_a_users_module_share_its_globals_with_its_functions(sides: Any) -> None:
    """Copies of the globals would not: and a lock among them cannot be copied at all."""
    sides.add(
        {
            "stateful.py": """
                import threading
                LOCK, SEEN = threading.Lock(), []
                def closure(what):
                    def add():
                        with LOCK:
                            SEEN.append(what)
                    return add
                def seen():
                    return SEEN
            """
        }
    )
    sides.on_client("import stateful; write('m', {'add': stateful.closure('x'), 'seen': stateful.seen})")
    assert sides.on_server("m = read('m'); m['add'](); m['add'](); print(m['seen']())") == "['x', 'x']"


def test_an_instance_goes_there_and_back_and_is_of_the_same_class(sides: Any) -> None:
    sides.add({"helpers.py": HELPERS})
    sides.on_client("import helpers; write('there', {'point': helpers.Point(3)})")
    sides.on_server("write('back', {'point': read('there')['point'].doubled()})")
    out = sides.on_client("import helpers; p = read('back')['point']; print(type(p) is helpers.Point, p)")
    assert out == "True Point(x=6)"
    assert "helpers" in [shipped.name for shipped in split(sides.payload("back").pickle)[0]]
    # On to a third side, which has no such file.
    assert sides.on_server("print(read('back')['point'].x)") == "6"


def test_a_traceback_shows_the_lines_of_the_shipped_source_also_where_the_file_changed(sides: Any) -> None:
    sides.add({"helpers.py": "def fail():\n    raise ValueError('this very line')\n"})
    sides.on_client("import helpers; write('m', {'f': helpers.fail})")
    sides.add({"helpers.py": "# another\n# text\n"})
    shown = sides.on_server(
        """
        import inspect, traceback
        f = read('m')['f']
        try:
            f()
        except ValueError:
            print(traceback.format_exc())
        print(inspect.getsource(f))
        """
    )
    assert shown.count("raise ValueError('this very line')") == 2
    assert str(sides.client / "helpers.py") in shown


def test_an_edited_module_replaces_the_one_shipped_before_and_old_objects_keep_working(sides: Any) -> None:
    for version in ("old", "new"):
        sides.add({"helpers.py": f"VERSION = '{version}'\ndef f(): return VERSION\nclass C:\n    def v(self): return VERSION\n"})
        sides.on_client(f"import helpers; write('{version}', {{'f': helpers.f, 'c': helpers.C()}})")
    assert (
        sides.on_server(
            """
            old = read('old'); first = sys.modules['helpers']
            new = read('new')
            assert sys.modules['helpers'] is not first
            print(old['f'](), old['c'].v(), new['f'](), new['c'].v(), read('new')['f'] is new['f'], read('old')['f'] is old['f'])
            """
        )
        == "old old new new True True"
    )


def test_an_edit_reaches_the_modules_that_import_the_edited_one(sides: Any) -> None:
    sides.add({"pkg/__init__.py": "", "pkg/user.py": "from pkg.base import V\nfrom pkg import base\ndef f(): return V, base.V\n"})
    for version in ("old", "new"):
        sides.add({"pkg/base.py": f"V = '{version}'\n"})
        sides.on_client(f"import pkg.user; write('{version}', {{'f': pkg.user.f}})")
    out = sides.on_server("print([read(n)['f']() for n in ('old', 'new', 'old')])")
    assert out == "[('old', 'old'), ('new', 'new'), ('old', 'old')]"


def test_a_different_module_of_the_servers_own_is_refused_and_stays(sides: Any) -> None:
    sides.add({"helpers.py": HELPERS, "other.py": "def g(): pass\n"})
    sides.add({"helpers.py": "def own(): pass\n"}, sides.server)
    sides.on_client("import helpers, other; write('m', {'f': helpers.twice, 'g': other.g})")
    shown = sides.on_server(
        """
        import helpers
        try:
            read('m')
        except SerializationError as exc:
            print(exc, exc.module)
        assert sys.modules['helpers'] is helpers and hasattr(helpers, 'own') and 'other' not in sys.modules
        try:
            import other
        except ModuleNotFoundError:
            print('nothing installed')
        """,
        path=sides.server,
    )
    assert f"'helpers' of the message ({sides.client / 'helpers.py'})" in shown
    assert f"loaded here ({sides.server / 'helpers.py'})" in shown
    assert shown.endswith("nothing installed")


def test_an_equal_module_of_the_servers_own_is_kept(sides: Any) -> None:
    sides.add({"helpers.py": HELPERS})
    sides.add({"helpers.py": HELPERS}, sides.server)
    sides.on_client("import helpers; write('m', {'f': helpers.twice})")
    check = "import helpers; before = list(sys.meta_path); print(read('m')['f'] is helpers.twice, sys.meta_path == before)"
    assert sides.on_server(check, path=sides.server) == "True True"


def test_a_namespace_of_the_servers_own_stays_in_reach(sides: Any) -> None:
    sides.add({"space/mine.py": "def f():\n    import space.theirs\n    return space.theirs.V\n"})
    sides.add({"space/theirs.py": "V = 'theirs'\n"}, sides.server)
    sides.on_client("import space.mine; write('m', {'f': space.mine.f})")
    assert sides.on_server("print(read('m')['f']())", path=sides.server) == "theirs"


def test_a_missing_module_is_named_by_the_side_that_lacks_it_and_its_key_by_the_other(sides: Any) -> None:
    sides.add(
        {"other.py": "V = 1\n", "needy.py": "import bgpy_missing_module\ndef f(): pass\n", "sub/bgpy_missing_module.py": ""}
    )
    out = sides.on_client(
        """
        import os
        sys.path.append(os.path.join(os.path.dirname(__file__), 'sub'))
        import needy, other
        # Installed here, say, and not over there.
        import bgpy.protocol.modules as modules
        sys.modules['bgpy_missing_module'].__file__ = '/usr/lib/site-packages/bgpy_missing_module.py'
        message = {'a': 1, 'module': other, 'f': needy.f}
        write('m', message)
        print(key_of_module(message, 'bgpy_missing_module'), key_of_module(message, 'other'), key_of_module(message, 'nowhere'))
        """
    )
    assert out == "f module None"
    shown = sides.on_server(
        """
        try:
            read('m')
        except SerializationError as exc:
            print(exc.module, type(exc.__cause__).__name__)
        """
    )
    assert shown == "bgpy_missing_module ModuleNotFoundError"


def test_a_name_that_a_module_lacks_names_the_module(user_folder: Path) -> None:
    module = write(user_folder, "users_lacks", "def f(): pass\n")
    payload = dump({"f": module.f})
    shipped, pickle = split(payload.pickle)
    forget("users_lacks")
    (user_folder / "users_lacks.py").unlink()
    with pytest.raises(SerializationError) as caught:
        load(join([shipped[0]._replace(source="")], pickle))
    assert caught.value.module == "users_lacks"


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
