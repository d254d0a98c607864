"""Asking a task set without a server, by its commands."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any


class CommandDesk(ABC):
    """Where commands are asked: what they are answered with, and what is refused."""

    @abstractmethod
    def answer(self, message: dict[str, Any]) -> dict[str, Any]:
        """Return the whole answer to a message."""

    def ask(self, command: str, **fields: Any) -> Any:
        answer = self.answer({"command": command, **fields})
        assert answer["request_result"] is True, answer
        return answer["result"]

    def refused(self, message: dict[str, Any]) -> tuple[str, str | None]:
        answer = self.answer(message)
        assert answer["request_result"] is False, answer
        return answer["result"], answer["field"]
