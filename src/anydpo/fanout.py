"""Several things at once, each in a thread of its own: what goes wrong with one is told of it, and stops no other."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def at_once(tasks: Sequence[Callable[[], T]]) -> list[T | Exception]:
    """Return what each task returned or raised, in order, when all have ended.

    An interrupt is raised at once and leaves them running; they end with the process.
    """
    made: list[T | Exception] = [RuntimeError("has not ended")] * len(tasks)

    def guarded(at: int, task: Callable[[], T]) -> None:
        try:
            made[at] = task()
        except Exception as exc:
            made[at] = exc

    threads = []
    for at, task in enumerate(tasks):
        inside = contextvars.copy_context()  # whoever shows an upload's progress is told of it from every thread
        threads.append(threading.Thread(target=inside.run, args=(guarded, at, task), daemon=True))
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            thread.join(timeout=0.2)  # so that Ctrl-C is noticed
    return made
