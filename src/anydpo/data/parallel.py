"""A large file of JSON lines read by several processes over byte ranges: the same blocks in the same order as by one.

Workers are programs of their own and no fork of this one: a user's script needs no `__main__` guard, and threads and
GPU libraries of the parent are none of their business. They hand back their blocks through a pipe, which holds them up
until they are asked for, so that memory does not grow with the file. The parent puts everything in order, takes the
fingerprint and writes: a tenth of the whole, so there are as many workers as cores.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import orjson

from anydpo.data.dataset import Names, forms_of
from anydpo.data.dialect import DIALECTS
from anydpo.data.reading import OnBad, Reading, Rows
from anydpo.data.rows import Row
from anydpo.data.scan import Block, Step, blocks, changed
from anydpo.data.source import BOM, parse
from anydpo.errors import DataInvalid

LARGE = 50_000_000  # bytes above which several processes pay
RANGE = 2 << 20  # bytes a worker takes at a time
PIPE = 1 << 20  # bytes a pipe holds, where the system lets us say so
AHEAD = 1  # ranges that a worker has ready beside the one it is at
MOST = 8  # processes; beyond, writing the result in order is what takes the time
LINES = (".jsonl", ".ndjson")


@dataclass(frozen=True)
class Task:
    """What a worker is told; its `index` says which ranges are its own."""

    path: str
    format: str
    options: Any
    forms: Names
    steps: tuple[Step, ...]
    size: int
    range: int
    index: int
    workers: int


def workers_for(reading: Reading, wanted: int | None) -> int:
    """Return how many processes read this source; 1 is this one, more are others beside it."""
    path = reading.rows.source
    if not isinstance(path, Path) or path.suffix not in LINES or reading.dialect.grouped or not sys.executable:
        return 1
    size = path.stat().st_size
    if size < LARGE or _is_array(path):
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(wanted or min(cores, MOST), -(-size // RANGE)))


def _is_array(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4096).removeprefix(BOM).lstrip()[:1] == b"["


def parallel_blocks(
    reading: Reading, on_bad: OnBad, forms: Names, steps: tuple[Step, ...], workers: int
) -> Iterator[Block]:
    """Yield the blocks of a file in its order, made by so many processes."""
    reading.rows.check_unchanged()
    path = reading.rows.source
    assert isinstance(path, Path)
    size = path.stat().st_size
    running = [
        _start(Task(str(path), reading.format, reading.options, forms, steps, size, RANGE, index, workers))
        for index in range(workers)
    ]
    before = 0
    try:
        for at in range(-(-size // RANGE)):
            lines, pipe = 0, running[at % workers].stdout
            assert pipe is not None
            for found in _received(pipe, path):
                if isinstance(found, Block):
                    yield _placed(found, before, on_bad)
                else:
                    lines = found
            before += lines
    finally:
        for process in running:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def _placed(block: Block, before: int, on_bad: OnBad) -> Block:
    """Return the block with the lines that it names counted from the beginning of the file."""
    rows = block.scan.skipped_rows
    rows[:] = [row._replace(line=row.line + before) for row in rows]
    for refusals in block.scan.refused.values():
        for found in refusals.values():
            found.sources[:] = [_later(source, before) for source in found.sources]
    if rows and on_bad == "raise":
        raise DataInvalid(f"{rows[0].file}:{rows[0].line}: {rows[0].reason}: {rows[0].detail}")
    return block


def _later(source: str, lines: int) -> str:
    """Return `file:line` so many lines later."""
    file, _, line = source.rpartition(":")
    return f"{file}:{int(line) + lines}"


def _start(task: Task) -> subprocess.Popen[bytes]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen(
        [sys.executable, "-m", "anydpo.data.parallel"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(ImportError, OSError, AttributeError):  # Linux: fewer, larger turns
        import fcntl

        fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, PIPE)
    with contextlib.suppress(BrokenPipeError), process.stdin as file:  # one that is dead already is found out later
        pickle.dump(task, file)
    return process


def _received(file: IO[bytes], path: Path) -> Iterator[Block | int]:
    """Yield the blocks of a worker's next range, and at its end its number of lines."""
    while True:
        try:
            lines, scan, lengths = pickle.load(file)  # noqa: S301 - from our own process
        except EOFError:
            hint = "is there memory enough? workers=1 needs least"
            raise DataInvalid(f"{path}: a process that reads it ended early", hint=hint) from None
        if scan is None:
            yield lines
            return
        yield Block(scan, tuple(map(file.read, lengths)))


def work(task: Task, out: IO[bytes]) -> None:
    """Read every range that is this worker's own and write its blocks, each range ended by its number of lines."""
    from anydpo.data import read as _readers  # noqa: F401 - each registers its dialects

    path = Path(task.path)
    reading = Reading(task.path, Rows(path, task.options), DIALECTS[task.format], task.format, task.options)
    wanted = forms_of(task.forms)
    with path.open("rb") as file, _sending(out) as send:
        for at in range(-(-task.size // task.range)):
            if at % task.workers != task.index:
                continue
            lines = Lines(file, at, task.range)
            found = list(blocks(changed(reading.outcomes("skip", lines), task.steps), wanted))
            send((found, lines.read))


@contextlib.contextmanager
def _sending(out: IO[bytes]) -> Iterator[Callable[[tuple[list[Block], int]], None]]:
    """Give what writes a range from a thread of its own, so that the next is read while a full pipe waits."""
    waiting: queue.Queue[tuple[list[Block], int] | None] = queue.Queue(AHEAD)

    def write() -> None:
        while (made := waiting.get()) is not None:
            found, lines = made
            for block in found:
                pickle.dump((0, block.scan, list(map(len, block.forms))), out, protocol=5)
                for form in block.forms:
                    out.write(form)
            pickle.dump((lines, None, []), out, protocol=5)
            out.flush()

    def serve() -> None:
        try:
            write()
        except BrokenPipeError:  # the reader had enough
            os._exit(0)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield waiting.put
    finally:
        waiting.put(None)
        thread.join()


class Lines:
    """The rows whose lines begin within the `at`-th range of a file, numbered from 1; `read` counts the lines."""

    def __init__(self, file: IO[bytes], at: int, size: int) -> None:
        self._file, self._start, self._end = file, at * size, (at + 1) * size
        self.read = 0

    def __iter__(self) -> Iterator[Row]:
        at = self._start
        self._file.seek(max(0, at - 1))
        if at:
            at += len(self._file.readline()) - 1  # the rest of a line that began before
        for line in self._file if at < self._end else ():
            self.read += 1
            if at == 0:
                at, line = len(BOM) * line.startswith(BOM), line.removeprefix(BOM)  # noqa: PLW2901
            at += len(line)
            try:
                yield Row(orjson.loads(line), self.read)
            except orjson.JSONDecodeError:
                if stripped := line.strip():
                    value, why = parse(stripped)
                    yield Row(value, self.read, why)
            if at >= self._end:
                return


def main() -> None:
    """Serve one task, given on standard input."""
    work(pickle.load(sys.stdin.buffer), sys.stdout.buffer)  # noqa: S301 - from our own process


if __name__ == "__main__":
    main()
