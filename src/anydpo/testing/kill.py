"""Dying at a chosen line: the n-th line that runs in given modules is this process's last."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, ModuleType
from typing import Any


@contextmanager
def tracing(modules: tuple[ModuleType, ...], each: Callable[[int], None]) -> Iterator[list[int]]:
    """Call `each` with a running number before every line of these modules; yields a list whose one item is the count.

    Only this thread is traced. What `each` raises, the traced line raises.
    """
    files = {module.__file__ for module in modules}
    count = [0]

    def line(_frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            count[0] += 1
            each(count[0])
        return line

    def call(frame: FrameType, _event: str, _: Any) -> Any:
        return line if frame.f_code.co_filename in files else None

    before = sys.gettrace()
    sys.settrace(call)
    try:
        yield count
    finally:
        sys.settrace(before)


def dies_at(last: int) -> Callable[[int], None]:
    """Return what kills this process, as `kill -9` does, before its line of this number."""

    def each(number: int) -> None:
        if number == last:
            os.kill(os.getpid(), signal.SIGKILL)

    return each
