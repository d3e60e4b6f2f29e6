"""What it costs to watch many runs: `python benchmarks/watch.py [--runs 1000] [--place together] [--json]`.

Real jobs in a sandbox of its own process, over HTTP, watched by one thread with an injected clock, so that nothing
waits. Own time is the processor time of that thread, the SDK's included. Bar: 10 ms a poll.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BAR_MS = 10.0
ROWS = [{"prompt": f"Question {i}?", "chosen": f"Yes, {i}.", "rejected": "No."} for i in range(16)]


def handles() -> int:
    """Return how many files and sockets this process has open."""
    open_now = Path("/proc/self/fd")
    return sum(1 for _ in open_now.iterdir()) if open_now.is_dir() else 0


@contextmanager
def sandbox(place: str) -> Iterator[dict[str, str]]:
    """Serve a place in a process of its own and yield the variables that lead to it."""
    command = [sys.executable, "-m", "anydpo", "sandbox", "--json", "--trainer", "instant", "--providers", place]
    serving = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert serving.stdout is not None
    try:
        lines: list[str] = []
        while not lines or lines[-1].rstrip() != "}":
            lines.append(next(serving.stdout))
        said = json.loads("".join(lines))
        yield {**said["env"], "ORIGIN": said["origins"][place]}
    finally:
        serving.terminate()
        serving.wait()
        serving.stdout.close()


def watched(place: str, runs: int, home: Path, origin: str) -> dict[str, Any]:
    """Submit so many jobs, watch all to their end, and return counts, times, and what there was after each round."""
    import httpx

    import anydpo
    from anydpo.dispatch import Dispatch
    from anydpo.journal import Journal
    from anydpo.plan import prepare
    from anydpo.registry import provider, using
    from anydpo.testing.clock import ManualClock

    class Rounds(ManualClock):
        """A clock that looks around whenever everybody has been asked."""

        def sleep(self, seconds: float) -> None:
            """Move on."""
            super().sleep(seconds)
            gc.collect()
            samples.append((handles(), len(gc.get_objects())))
            look()

    samples: list[tuple[int, int]] = []
    retrieved = 0
    service = httpx.Client(base_url=origin, timeout=60)

    def look() -> None:
        nonlocal retrieved
        log = service.get("/_sandbox/requests").json()
        retrieved += sum(entry["operation"] == "retrieve" for entry in log.get("requests", log))
        service.delete("/_sandbox/requests")

    model = {"together": "Qwen/Qwen3-8B", "default": "gpt-4.1-mini-2025-04-14"}
    data = anydpo.load(ROWS)
    clock, polls = Rounds(), 0
    mine: Any = provider(place)
    asked = mine.poll

    def poll(*arguments: Any) -> Any:
        nonlocal polls
        polls += 1
        return asked(*arguments)

    mine.poll = poll
    with using(mine):
        at = Dispatch(Journal(home), clock)
        sent = [
            at.submit(prepare(anydpo.PreferenceJob(model=model, data=data, batch_size=8, seed=seed), place)).run
            for seed in range(runs)
        ]
        look()
        samples, retrieved = [], 0
        began, cpu = time.perf_counter(), time.thread_time()
        ended = sum(getattr(event, "state", None) == "succeeded" for _, event in at.watch_all(sent))
        seconds, cpu = time.perf_counter() - began, time.thread_time() - cpu
        at.journal.close()
        look()
        service.close()
    return {
        "place": place,
        "runs": runs,
        "succeeded": ended,
        "polls": polls,
        "retrieved": retrieved,
        "rounds": len(samples),
        "own_ms_per_poll": round(1000 * cpu / polls, 3),
        "wall_ms_per_poll": round(1000 * seconds / polls, 3),
        "handles": [handles for handles, _ in samples],
        "objects": [objects for _, objects in samples],
        "bar_ms": BAR_MS,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--place", default="together", choices=["together", "openai"])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sandbox(given.place) as variables:
        os.environ |= {**variables, "ANYDPO_HOME": folder}
        found = watched(given.place, given.runs, Path(folder), variables["ORIGIN"])
    if given.json:
        print(json.dumps({"schema": 1, **found}))
        return
    print(f"{found['runs']} runs at {found['place']}: {found['polls']} polls in {found['rounds']} rounds")
    print(f"own time a poll   {found['own_ms_per_poll']:.2f} ms  (bar {BAR_MS:g} ms)")
    print(f"wall time a poll  {found['wall_ms_per_poll']:.2f} ms")
    print(f"handles a round   {found['handles']}")
    print(f"objects a round   {found['objects']}")


if __name__ == "__main__":
    main()
