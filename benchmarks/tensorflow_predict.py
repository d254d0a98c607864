"""
Predictions of bgpy beside calls in process and beside other model servers, interleaved in one run.

Two small models, a dense one (784-128-10) and a convolutional one, are made as SavedModels in a temporary folder. The floor is
their signature, called in the process that has them: with tensors, and with NumPy arrays in and out. Every server has the same
models and, over HTTP, the same client, one thread that takes few steps; its own limit, against a server that does nothing, is
printed too. Answers are compared with the floor's. A peer is stopped (SIGSTOP) while others are measured.

Prints medians over the rounds, and beside each line that is asked for how it was met; all of it as JSON with ``--json``. A time
means nothing by itself: compare within one run. Nothing is pinned: clients and servers, bgpy's and the others', share all cores.
Each model takes about seven minutes; ``--rounds`` and ``--seconds`` make it shorter, and less sure.

Needs the extras ``gateway`` and ``tensorflow``. The peers are in an environment of their own: ``--peer-python`` names its
interpreter, ``--install-peers`` makes one for this run; without either none is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from measuring import ratio
from predict_bgpy import CYCLES, SETTLED, Bgpy, memory
from predict_models import BATCHES, MODELS
from predict_peers import KINDS, Peer, install
from predict_roles import Role

FLOOR = "in process, NumPy"
TENSORS = "in process, tensors"
PYTHON = "bgpy, threads"
ASYNCIO = "bgpy, asyncio"
JSON_FORMS = ("bgpy, /v1 JSON", "bgpy, /v2 JSON")
ONE_AND_MANY = (1, 32)
GROWTH = 0.1


class Cell(NamedTuple):
    """
    One figure of the tables.

    Attributes
    ----------
    system
        Who answers, and how it is asked.
    batch
        Rows of each request.
    concurrency
        Requests on their way at once.
    """

    system: str
    batch: int
    concurrency: int


Measure = Callable[[], dict[str, Any]]


class Bench:
    """
    All that is measured with one model.

    Parameters
    ----------
    model
        A name of `MODELS`.
    seconds
        Of each measurement.
    """

    def __init__(self, model: str, seconds: float) -> None:
        self.model, self.seconds = model, seconds
        self.cells: dict[Cell, Measure] = {}

    def add_floor(self, floor: Role) -> None:
        """Measure the signature in process."""
        for system, kind in ((FLOOR, "numpy"), (TENSORS, "tensor")):
            for batch in BATCHES:
                self._add(Cell(system, batch, 1), floor, kind=kind, batch=batch)

    def add_python(self, system: str, client: Role) -> None:
        """Measure a client in Python."""
        for batch, concurrency in ((1, 1), (1, 32), (32, 1), (32, 4), (32, 32)):
            self._add(Cell(system, batch, concurrency), client, model=self.model, batch=batch, concurrency=concurrency)

    def add_http(self, system: str, client: Role, port: int, path: str, form: str, peer: Peer | None = None) -> None:
        """Measure a server over HTTP; a peer runs only meanwhile."""
        for batch in BATCHES:
            for concurrency in ONE_AND_MANY:
                fields = {"port": port, "path": path, "form": form, "model": self.model}
                cell = Cell(system, batch, concurrency)
                self._add(cell, client, **fields, batch=batch, concurrency=concurrency)
                if peer is not None:
                    self.cells[cell] = _while_it_runs(peer, self.cells[cell])

    def run(self, rounds: int) -> dict[Cell, list[dict[str, Any]]]:
        """Measure all cells in turns; return what each round has found."""
        found: dict[Cell, list[dict[str, Any]]] = {cell: [] for cell in self.cells}
        for number in range(rounds):
            for place, (cell, measure) in enumerate(self.cells.items()):
                done = f"round {number + 1} of {rounds}, {place + 1} of {len(self.cells)}"
                _say(f"{self.model}: {done}: {' '.join(map(str, cell))}")
                found[cell].append(measure())
        _say("")
        return found

    def _add(self, cell: Cell, role: Role, **fields: Any) -> None:
        self.cells[cell] = lambda: role.measure(**fields, seconds=self.seconds)


def _while_it_runs(peer: Peer, measure: Measure) -> Measure:
    def measured() -> dict[str, Any]:
        peer.resume()
        try:
            return measure()
        finally:
            peer.pause()

    return measured


def _say(text: str) -> None:
    """Show where it is, on a terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


# What is asked for


class Line(NamedTuple):
    """A ratio that is asked for, and what it was."""

    text: str
    asked: float
    found: float

    def __str__(self) -> str:
        sign = "met" if self.found >= self.asked else "MISSED"
        return f"{self.text:92} {self.found:6.2f}  asked {self.asked:.2f}: {sign}"


def asked_lines(found: dict[Cell, list[dict[str, Any]]], peers: list[str]) -> list[Line]:
    """Return the ratios that are asked for; of several peers the one that does best counts."""
    rates = {cell: [each["rate"] for each in rounds] for cell, rounds in found.items()}

    def compare(cell: Cell, base: Cell) -> float:
        return ratio({"cell": rates[cell], "base": rates[base]}, "cell", "base")

    lines = [Line("Python client, batch 32, 4 in flight / floor, calls/s", 0.7, compare(Cell(PYTHON, 32, 4), Cell(FLOOR, 32, 1)))]
    for system in (PYTHON, ASYNCIO):
        for floor in (FLOOR, TENSORS):
            text = f"{system}, batch 1, concurrency 32 / one at a time {floor}"
            lines.append(Line(text, 1.0, compare(Cell(system, 1, 32), Cell(floor, 1, 1))))
    many = {name: Cell(name, 1, 32) for name in peers}
    for form in JSON_FORMS:
        if many:
            name, least = min(((name, compare(Cell(form, 1, 32), cell)) for name, cell in many.items()), key=lambda pair: pair[1])
            lines.append(Line(f"{form}, batch 1, concurrency 32 / the best peer ({name})", 1.5, least))
    return lines


# Running it


class Stage:
    """
    What serves both models: bgpy, and the clients, each in a process of its own.

    Parameters
    ----------
    made
        The models, as `predict_models.Maker` tells them.
    folder
        Where they are.
    stack
        Ends everything.
    """

    def __init__(self, made: dict[str, Any], folder: Path, stack: ExitStack) -> None:
        self.made, self.folder = made, folder
        self.bgpy = stack.enter_context(Bgpy())
        for model, known in made.items():
            self.bgpy.deploy(model, known["paths"][0])
        (input_name,) = {known["input"] for known in made.values()}
        common = {"token": self.bgpy.token, "folder": str(folder), "input_name": input_name}
        self.threads = stack.enter_context(Role("threads", port=self.bgpy.port, **common))
        self.tasks = stack.enter_context(Role("asyncio", port=self.bgpy.port, **common))
        self.client = stack.enter_context(Role("http", **common))
        self.trivial = stack.enter_context(Role("trivial"))

    def bench(self, model: str, seconds: float, peer_python: str | None, stack: ExitStack) -> Bench:
        """Start what only this model needs; return all that is to be measured with it."""
        path = self.made[model]["paths"][0]
        bench = Bench(model, seconds)
        bench.add_http("client's limit", self.client, self.trivial.ready["port"], "/trivial", "v1")
        bench.add_floor(stack.enter_context(Role("floor", path=path)))
        bench.add_python(PYTHON, self.threads)
        bench.add_python(ASYNCIO, self.tasks)
        port = self.bgpy.gateway_port
        bench.add_http("bgpy, /v2 binary", self.client, port, f"/v2/models/{model}/infer", "v2 binary")
        bench.add_http("bgpy, /v2 JSON", self.client, port, f"/v2/models/{model}/infer", "v2")
        bench.add_http("bgpy, /v1 JSON", self.client, port, f"/v1/models/{model}:predict", "v1")
        for number, kind in enumerate(KINDS if peer_python else ()):
            assert peer_python is not None
            peer = stack.enter_context(Peer(kind, peer_python, path, self.folder / f"peer-{model}-{number}"))
            peer.pause()
            bench.add_http(kind.name, self.client, peer.port, peer.path, peer.form, peer)
        return bench


def measure_all(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure and return everything, as plain data; print it on the way unless it is to be JSON."""
    peer_python = options.peer_python
    if options.install_peers and peer_python is None:
        peer_python = install(folder / "environment")
    with Role("maker", folder=str(folder)) as maker:
        if not options.json:
            print(
                f"TensorFlow {maker.ready['version']}, {os.cpu_count()} cores, {options.rounds} rounds of {options.seconds:g} s"
            )
        made = {model: maker.measure(model=model) for model in options.model or MODELS}
    results: dict[str, Any] = {"memory": {}}
    with ExitStack() as stack:
        stage = Stage(made, folder, stack)
        for model in made:
            with ExitStack() as own:
                bench = stage.bench(model, options.seconds, peer_python, own)
                figures = bench.run(options.rounds)
            lines = asked_lines(figures, [kind.name for kind in KINDS] if peer_python else [])
            results[model] = {
                "figures": [{**cell._asdict(), **_middle(rounds)} for cell, rounds in figures.items()],
                "asked": [line._asdict() for line in lines],
            }
            if not options.json:
                print_model(model, figures, lines)
        for model, known in made.items():
            grown = results["memory"][model] = memory(stage.bgpy, known["paths"])
            if not options.json:
                print_memory(model, grown)
    return results


def _middle(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    middle: dict[str, Any] = {key: statistics.median(each[key] for each in rounds) for key in rounds[0]}
    rates = [each["rate"] for each in rounds]
    return {**middle, "lowest": min(rates), "highest": max(rates)}


def print_model(model: str, figures: dict[Cell, list[dict[str, Any]]], lines: list[Line]) -> None:
    """Print the table of one model."""
    print(f"\n{model} ({MODELS[model]})")
    heads = f"{'batch':>5} {'at once':>7} {'requests/s':>10} {'of all rounds':>17} {'rows/s':>9} {'p50 ms':>8} {'p99 ms':>8}"
    print(f"  {'':26} {heads}")
    for cell, rounds in figures.items():
        middle = _middle(rounds)
        spread = f"{middle['lowest']:.0f}..{middle['highest']:.0f}"
        print(
            f"  {cell.system:26} {cell.batch:5} {cell.concurrency:7} {middle['rate']:10.0f} {spread:>17}"
            f" {middle['rate'] * cell.batch:9.0f} {middle['p50']:8.2f} {middle['p99']:8.2f}"
        )
    print()
    for line in lines:
        print(f"  {line}")
    if not any(cell.system == kind.name for cell in figures for kind in KINDS):
        print("  No peer was measured: see --peer-python and --install-peers")


def print_memory(model: str, grown: dict[str, Any]) -> None:
    """Print how the memory of a worker grew."""
    sizes = f"{grown['first'] / 2**20:.0f} MiB after {SETTLED} cycles, {grown['last'] / 2**20:.0f} MiB after {CYCLES}"
    sign = "met" if grown["growth"] <= GROWTH else "MISSED"
    print(f"\nmemory of a worker, {model}: {sizes} of deploy, predict, update, predict, undeploy")
    print(f"  growth {grown['growth']:+.1%}  asked at most {GROWTH:+.0%}: {sign}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each comparison")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--model", choices=MODELS, action="append", help="measure this model only")
    parser.add_argument("--cpu", type=int, default=-1, help="the core that everything is pinned to; -1 for none")
    parser.add_argument("--peer-python", help="the Python of an environment that has LitServe and MLServer")
    parser.add_argument("--install-peers", action="store_true", help="make such an environment for this run; about 2 GB")
    options = parser.parse_args()
    if options.cpu >= 0 and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {options.cpu})
    with tempfile.TemporaryDirectory() as home:
        os.environ["BGPY_HOME"] = str(Path(home) / "bgpy")
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its bytecode
        results = measure_all(options, Path(home))
    if options.json:
        print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
