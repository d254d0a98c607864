"""Modules of the user's in another interpreter, which has not got them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.modules import forget, write

from bgpy.errors import SerializationError
from bgpy.protocol.messages import dump, load
from bgpy.protocol.shipped import join, split

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
