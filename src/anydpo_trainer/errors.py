"""What the trainer says when it stops: a code, what happened, and what to do."""

from __future__ import annotations


class TrainerError(Exception):
    """The run cannot go on; `hint` says what would change that."""

    def __init__(self, code: str, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.hint = code, message, hint
