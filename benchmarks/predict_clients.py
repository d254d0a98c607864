"""
The Python clients of the benchmark of predictions: threads that share one client, and tasks of one asyncio loop.
"""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import numpy as np
from measuring import summary
from predict_models import VARIANTS, expected, inputs, is_expected

from bgpy import Client
from bgpy.aio import AsyncClient
from bgpy.tasks.tensorflow import Workspaces
from bgpy.tasks.workspace.values import Packed


class Threads:
    """
    Threads with one client and one `Model`, as in a program of a user.

    Parameters
    ----------
    port, token
        Of the server.
    folder
        Where the expected answers are.
    input_name
        Of the models; each is in a workspace of its own name.
    """

    def __init__(self, port: int, token: str, folder: str, input_name: str) -> None:
        self.folder, self.input_name = folder, input_name
        self.workspaces = Workspaces(Client(port=port, token=token))

    def measure(self, model: str, batch: int, concurrency: int, seconds: float) -> dict[str, Any]:
        """Have `concurrency` threads predict for so many seconds, one call after the other each."""
        deployed = self.workspaces[model].model
        rows = inputs(batch).astype(np.float32)
        wanted = expected(self.folder, model, batch)
        times: list[float] = []
        failures: list[BaseException] = []
        begin = threading.Barrier(concurrency + 1)

        def work(number: int) -> None:
            try:
                feed = {self.input_name: rows[number % VARIANTS]}
                assert is_expected(deployed.predict(feed)[0], wanted[number % VARIANTS]), "wrong numbers"
                self._predict_until(deployed, feed, seconds / 4)
                begin.wait(60)
                own = self._predict_until(deployed, feed, seconds)
                begin.wait(60)
                times.extend(own)
            except BaseException as error:  # noqa: BLE001 - raised again below, in the thread that waits
                failures.append(error)
                begin.abort()

        threads = [threading.Thread(target=work, args=(number,)) for number in range(concurrency)]
        for thread in threads:
            thread.start()
        took = 0.0
        try:
            begin.wait(60)
            start = time.perf_counter()
            begin.wait(60)
            took = time.perf_counter() - start
        except threading.BrokenBarrierError:
            pass
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        return summary(times, took)

    @staticmethod
    def _predict_until(deployed: Any, feed: dict[str, Any], seconds: float) -> list[float]:
        times = []
        end = time.perf_counter() + seconds
        while (begun := time.perf_counter()) < end:
            deployed.predict(feed)
            times.append(time.perf_counter() - begun)
        return times


class Tasks:
    """Tasks of one loop with one `AsyncClient`; parameters as for `Threads`."""

    def __init__(self, port: int, token: str, folder: str, input_name: str) -> None:
        self.folder, self.input_name = folder, input_name
        self.port, self.token = port, token

    def measure(self, model: str, batch: int, concurrency: int, seconds: float) -> dict[str, Any]:
        """Have `concurrency` tasks predict for so many seconds, one call after the other each."""
        return asyncio.run(self._measure(model, batch, concurrency, seconds))

    async def _measure(self, model: str, batch: int, concurrency: int, seconds: float) -> dict[str, Any]:
        rows = inputs(batch).astype(np.float32)
        wanted = expected(self.folder, model, batch)
        times: list[float] = []
        async with AsyncClient(port=self.port, token=self.token) as client:

            async def predict(number: int) -> Any:
                feed = Packed.of({self.input_name: rows[number % VARIANTS]})
                request = {"command": "predict", "name": model, "feed_dict": feed, "timeout": 60}
                answer = await client.execute(request, await_response=True)
                assert answer["request_result"], answer
                assert answer["result"]["result"], answer
                return answer["result"]["result"].open()[0]

            async def work(number: int, seconds: float) -> None:
                end = time.perf_counter() + seconds
                while (begun := time.perf_counter()) < end:
                    await predict(number)
                    times.append(time.perf_counter() - begun)

            for number in range(min(concurrency, VARIANTS)):
                assert is_expected(await predict(number), wanted[number]), "wrong numbers"
            await asyncio.gather(*(work(number, seconds / 4) for number in range(concurrency)))
            times.clear()
            start = time.perf_counter()
            await asyncio.gather(*(work(number, seconds) for number in range(concurrency)))
            return summary(times, time.perf_counter() - start)
