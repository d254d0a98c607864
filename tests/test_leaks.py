"""The check around each test finds what a test leaves behind, and does not trip over what ends by itself."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bgpy.system import wait_for_end

ROOT = Path(__file__).resolve().parents[1]

LEAKY = """
import os, socket, subprocess, sys, threading

kept = []
never = threading.Event()

def test_clean(tmp_path):
    with socket.socket():
        thread = threading.Thread(target=(tmp_path / "file").write_text, args=("x",))
        thread.start()
    subprocess.run([sys.executable, "-c", ""], check=True)

def test_thread_that_ends():
    told = threading.Event()
    threading.Thread(target=told.wait).start()
    told.set()

def test_thread():
    threading.Thread(target=never.wait, daemon=True).start()

def test_descriptor():
    kept.append(socket.socket())

def test_replaced_descriptor():
    kept.pop().close()
    kept.append(socket.socket())

def test_child():
    kept.append(subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"]))

def test_zombie():
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    kept.append(child)

SERVER = '''
import os, signal
from bgpy.records import Record, Registry
from bgpy.system import process_start_time
if os.fork():
    os._exit(0)
pid, start_time = os.getpid(), process_start_time(os.getpid())
hold = Registry().hold("orphan", "0" * 32)
hold.publish(Record("orphan", "0" * 32, "127.0.0.1", 1, pid, start_time, 0.0, None, "3", "0"))
print(pid, start_time, flush=True)
os.close(1)
signal.pause()
'''

def test_server():
    print("server", subprocess.run([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True).stdout)

def test_environment():
    assert "BGPY_TOKEN" not in os.environ
    os.environ["BGPY_TOKEN"] = "left behind"

def test_environment_after_it():
    assert "BGPY_TOKEN" not in os.environ
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children and descriptors are listed on Linux only")
def test_the_check_names_what_a_test_left_behind(tmp_path: Path) -> None:
    conftest = (ROOT / "tests" / "conftest.py").read_text(encoding="utf-8")
    (tmp_path / "conftest.py").write_text(conftest.replace("GRACE = 5.0", "GRACE = 0.2"), encoding="utf-8")
    (tmp_path / "test_leaky.py").write_text(LEAKY, encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-c",
        str(ROOT / "setup.cfg"),
        "--rootdir",
        str(tmp_path),
        "-p",
        "no:cacheprovider",
        "-rA",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "BGPY_TOKEN": "from outside"}
    run = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, env=environment, cwd=tmp_path)
    found = dict(re.findall(r"^ERROR test_leaky\.py::test_(\w+) - Failed: (.*)", run.stdout, re.MULTILINE))
    assert set(found) == {"thread", "descriptor", "replaced_descriptor", "child", "zombie", "server"}, run.stdout
    assert run.stdout.count("PASSED") == 10
    pid, start_time = re.findall(r"^server (\d+) (\S+)", run.stdout, re.MULTILINE)[0]
    assert wait_for_end(int(pid), start_time, 5.0)
