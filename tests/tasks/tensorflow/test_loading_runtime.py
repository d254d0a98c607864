"""What TensorFlow is told to run on. It is played here: this machine may have no GPU, and there the settings would do nothing."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bgpy.tasks.tensorflow.loading import runtime


class PlayedTensorFlow:
    """TensorFlow with so many GPUs, as far as devices and sessions go; it keeps what it is told."""

    def __init__(self, gpus: int, growth_error: Exception | None = None) -> None:
        self.soft_placement: bool | None = None
        self.growing: list[str] = []
        self.sessions: list[Any] = []
        devices = {kind: [SimpleNamespace(name=f"/physical_device:{kind}:{number}") for number in range(count)]
                   for kind, count in (("CPU", 1), ("GPU", gpus))}  # fmt: skip

        def set_memory_growth(device: Any, enable: bool) -> None:
            assert enable
            if growth_error is not None:
                raise growth_error
            self.growing.append(device.name)

        def list_devices(kind: str | None = None) -> list[Any]:
            return [device for each, found in devices.items() if kind in (None, each) for device in found]

        self.config = SimpleNamespace(
            set_soft_device_placement=lambda enabled: setattr(self, "soft_placement", enabled),
            list_physical_devices=list_devices,
            experimental=SimpleNamespace(set_memory_growth=set_memory_growth),
        )
        self.compat = SimpleNamespace(v1=SimpleNamespace(ConfigProto=self._make_config, Session=self._make_session))

    def _make_config(self, allow_soft_placement: bool) -> Any:
        options = SimpleNamespace(allow_growth=False)
        return SimpleNamespace(allow_soft_placement=allow_soft_placement, device_count={}, gpu_options=options)

    def _make_session(self, graph: Any, config: Any) -> Any:
        self.sessions.append(config)
        return config


@pytest.mark.parametrize("gpus", [0, 1, 2])
def test_memory_grows_on_every_gpu_and_placement_is_soft(gpus: int) -> None:
    played = PlayedTensorFlow(gpus)
    runtime._prepare_devices(played)
    assert played.soft_placement is True
    assert played.growing == [f"/physical_device:GPU:{number}" for number in range(gpus)]


@pytest.mark.parametrize("error", [RuntimeError("Physical devices cannot be modified"), ValueError("Invalid device")])
def test_a_gpu_that_a_job_has_used_already_stays_as_it_is(error: Exception) -> None:
    played = PlayedTensorFlow(1, error)
    runtime._prepare_devices(played)
    assert played.soft_placement is True


@pytest.mark.parametrize(
    ("given", "taken"), [("/gpu:0", "/device:GPU:0"), ("GPU:1", "/device:GPU:1"), ("/device:gpu:*", "/device:GPU:0")]
)
def test_a_gpu_is_called_as_tensorflow_does(given: str, taken: str) -> None:
    assert runtime.check_device(PlayedTensorFlow(2), given) == taken


def test_a_session_on_a_gpu_takes_memory_as_it_needs_it_and_runs_elsewhere_what_it_cannot() -> None:
    config = runtime.new_session(PlayedTensorFlow(1), None, "/device:GPU:0")
    assert config.allow_soft_placement is True
    assert config.gpu_options.allow_growth is True
    assert "GPU" not in config.device_count


def test_a_session_on_the_cpu_leaves_the_gpus_alone() -> None:
    config = runtime.new_session(PlayedTensorFlow(2), None, "/device:CPU:0")
    assert config.device_count == {"GPU": 0}


def test_an_interrupt_waits_for_the_end_of_the_import_which_nobody_can_begin_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tensorflow.py").write_text(
        "import os, signal\n"
        "os.write(2, b'I0000 00:00:1.2 3 port.cc:153] noise\\n')\n"
        "signal.raise_signal(signal.SIGINT)\nwhole = True\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    del sys.modules["tensorflow"]  # what was there comes back at the end
    monkeypatch.setattr(runtime, "_prepare_devices", lambda tensorflow: None)
    with pytest.raises(KeyboardInterrupt):
        runtime.import_tensorflow()
    assert sys.modules["tensorflow"].whole
    assert not capfd.readouterr().err
