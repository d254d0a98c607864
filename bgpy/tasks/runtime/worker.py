"""
The placeholders of a run, in the process that runs it: its host of calls and questions.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from bgpy.errors import PlaceholderNotFoundError
from bgpy.tasks.runtime.saving import RUN, Saved, is_name
from bgpy.tasks.workspace.inspector import MAX_LISTED, Inspector
from bgpy.tasks.workspace.progress import SINK
from bgpy.tasks.workspace.values import Value

#: For `Call` and `ask_worker`.
HOST = "bgpy.tasks.runtime.worker:Placeholders"
_OWN_FOLDER = os.path.dirname(os.path.abspath(__file__)) + os.sep


class Placeholders(Inspector):
    """
    What a run has saved, and the variables of its main file once that has ended.

    `prepare`, `announce` and `predict` are calls, each with a list of arguments; the questions are those of every workspace.
    """

    def __init__(self, namespace: dict[str, Any]) -> None:
        super().__init__(namespace)
        self._saved = Saved()
        self._folder = ""
        self._is_over = False

    # Calls

    def prepare(self, arguments: Sequence[Mapping[str, Any]]) -> list[None]:
        """
        Go into the folder of the run; from now on `save_placeholder` saves.

        It will be first on the path when the main file runs: by that file itself, or ``nested`` says that this is in a folder of
        the run's folder.
        """
        for argument in arguments:
            self._folder = argument["folder"]
            os.chdir(self._folder)
            if argument["nested"]:
                # First, before the folder of the main file: the interpreter puts that in the place of the None.
                sys.path[:0] = [self._folder, None]  # type: ignore[list-item]
        RUN.saved = self._saved
        return [None] * len(arguments)

    def announce(self, arguments: Sequence[Mapping[str, Any]]) -> list[Value]:
        """Take the variables for placeholders, tell of each that was not saved, and return the names of all."""
        self._is_over = True
        names = list(islice(self.all(), MAX_LISTED))
        saved = self._saved.values()
        sink = SINK.get()
        for name in names:
            if sink is not None and name not in saved:
                sink.saved(name)
        return [Value({"placeholders": names}, None) for _ in arguments]

    def predict(self, arguments: Sequence[Mapping[str, Any]]) -> list[Value | BaseException]:
        """Ask a placeholder, or any callable of the main file, for predictions; the value is what it says."""
        return [self._predict(argument) for argument in arguments]

    def _predict(self, argument: Mapping[str, Any]) -> Value | BaseException:
        from bgpy.tasks.runtime import models

        try:
            model = self._model(argument["name"])
            data = argument["data"] if argument["is_data"] else models.read_data(argument["data"], self._folder)
            return Value(models.predict(argument["name"], model, data), None)
        except KeyboardInterrupt:
            raise  # by who stops it
        except BaseException as error:  # noqa: BLE001 - a model of the user may raise anything
            return _without_ours(error)

    def _model(self, name: str) -> Any:
        found = self.find(name)
        if found is None:
            value = self.namespace.get(name)
            found = [value] if callable(value) else None
        if found is None:
            raise PlaceholderNotFoundError(name)
        return found[0]

    # Questions

    def all(self) -> dict[str, Any]:
        """Return what there is by now; what was saved goes before a variable of the same name."""
        found = self._saved.values()
        if self._is_over:
            for name, value in super().all().items():
                if is_name(name):
                    found.setdefault(name, value)
        return found

    def find(self, name: str) -> list[Any] | None:
        """Return a placeholder in a list of its own, None where there is none of that name."""
        placeholders = self.all()
        return [placeholders[name]] if name in placeholders else None


def _without_ours(error: BaseException) -> BaseException:
    """Let the traceback of an error begin with the code of the user."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_OWN_FOLDER):
        trace = trace.tb_next
    return error.with_traceback(trace)
