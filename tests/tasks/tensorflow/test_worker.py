"""What a worker says where TensorFlow is not installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bgpy.errors import MissingExtraError
from bgpy.tasks.tensorflow import dispatch, worker

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("missing", ["tensorflow", "numpy"])
def test_a_missing_extra_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setattr(worker, "find_spec", lambda name: None if name == missing else object())
    with pytest.raises(MissingExtraError, match=r'pip install "bgpy\[tensorflow\]"'):
        worker.make_host()


def test_what_is_called_can_be_imported_without_any_extra() -> None:
    module, _, name = dispatch.HOST.partition(":")
    script = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {module} as m; m.{name}; assert 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
