"""The far side of the reference provider: a make-believe training service with faults by script.

Everything that ever reached it is one list of records, kept in memory or in a file, so that several processes can use
one service and a killed one leaves it as a real service would be left. Each kind of request can be scripted: what the
n-th one meets is the n-th word of its script.
"""

from __future__ import annotations

import json
import threading
import uuid
from pathlib import Path
from typing import Any, Literal, TypeAlias

from anydpo.clock import Clock, SystemClock
from anydpo.result import State

Verb: TypeAlias = Literal["stage", "examine", "create", "find", "poll", "cancel"]
# lost_reply: carried out, but the answer never arrives. no_answer: not carried out, and no answer. half_reply: carried
# out, an answer without an id. refuse, quota, auth, retired, safety: a clear no. pending, bad_rows: about a file.
WORDS = ("ok", "lost_reply", "no_answer", "half_reply", "refuse", "quota", "auth", "retired", "safety", "capacity")
QUEUE_SECONDS, STEPS = 1.0, 4
_COUNTING = threading.Lock()  # so that of two requests at once each meets a word of its own


class Service:
    """Accepts files and jobs, lists them, and trains by the clock: a second in the queue, then `seconds` of running."""

    def __init__(self, folder: Path | None = None, clock: Clock | None = None, *, seconds: float = 2.0) -> None:
        self.folder, self.clock, self.seconds = folder, clock or SystemClock(), seconds
        self.scripts: dict[str, list[str]] = {}
        self.settings: dict[str, Any] = {}
        self._records: list[dict[str, Any]] = []
        self._guard = threading.Lock()
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    @property
    def name(self) -> str:
        """What stands for the endpoint."""
        return f"memory://{self.folder or id(self)}"

    def script(self, verb: Verb, *words: str) -> None:
        """Let the next requests of a kind meet these words, one each."""
        done = sum(record["verb"] == verb for record in self.records())
        self._write_script(verb, ["ok"] * done + list(words))

    def set(self, **settings: Any) -> None:
        """Change how jobs go.

        `lag` seconds until a job is listed, `queue` and `seconds` of waiting and running, `ends` a state, `word` an
        unknown status word, `code` the one of the error of jobs that fail.
        """
        self.settings.update(settings)
        if self.folder is not None:
            (self.folder / "settings.json").write_text(json.dumps(self.settings))

    def word(self, verb: Verb, **record: Any) -> str:
        """Record a request and return what it meets."""
        with _COUNTING:
            done = sum(known["verb"] == verb for known in self.records())
            self._add({"verb": verb, "at": self.clock.now(), **record})
        script = self._scripts().get(verb, [])
        return script[done] if done < len(script) else "ok"

    def accept(self, key: str, body: dict[str, Any]) -> str:
        """Make a job, whatever becomes of the answer; the service itself never asks whether the key is new."""
        job = f"job-{uuid.uuid4().hex[:12]}"
        self._add({"verb": "job", "id": job, "key": key, "at": self.clock.now(), "body": body})
        return job

    def jobs(self, *, listed: bool = False) -> list[dict[str, Any]]:
        """Return every job; with `listed` only those that a search finds by now."""
        lag = float(self._settings().get("lag", 0.0))
        made = [record for record in self.records() if record["verb"] == "job"]
        return [job for job in made if not listed or self.clock.now() >= job["at"] + lag]

    def requests(self, verb: Verb) -> int:
        """Return how many requests of a kind have arrived."""
        return sum(record["verb"] == verb for record in self.records())

    def end(self, job: str, state: State) -> None:
        """Bring a job to an end now."""
        self._add({"verb": "end", "id": job, "state": state.value, "at": self.clock.now()})

    def state(self, job: str) -> State | str | None:
        """Return where a job stands, an unknown status word where that is set, None where there is no such job."""
        if not any(known["id"] == job for known in self.jobs()):
            return None
        ended = [record for record in self.records() if record["verb"] == "end" and record["id"] == job]
        if ended:
            return State(ended[0]["state"])
        if word := self._settings().get("word"):
            return str(word)
        (queue, whole), age = self._times(), self.age(job)
        if age < queue:
            return State.QUEUED
        if age < queue + whole:
            return State.RUNNING
        self.end(job, State(self._settings().get("ends", "succeeded")))  # from now on, whatever is set later
        return self.state(job)

    def age(self, job: str) -> float:
        """Return the seconds since a job was made."""
        made = next(float(known["at"]) for known in self.jobs() if known["id"] == job)
        return max(0.0, self.clock.now() - made)

    def steps(self, job: str) -> int:
        """Return how many steps a job has made."""
        if any(record["verb"] == "end" and record["id"] == job for record in self.records()):
            return STEPS
        queue, whole = self._times()
        running = self.age(job) - queue
        return STEPS if running >= whole else max(0, int(STEPS * running / (whole or 1.0)))

    def records(self) -> list[dict[str, Any]]:
        """Return everything that reached the service, in order."""
        if self.folder is None:
            with self._guard:
                return list(self._records)
        try:
            lines = (self.folder / "records.jsonl").read_text("utf-8").splitlines()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines]

    def failure(self) -> str:
        """Return the code of the error of jobs that fail."""
        return str(self._settings().get("code", "job_failed"))

    def _times(self) -> tuple[float, float]:
        """Return the seconds in the queue and of running."""
        known = self._settings()
        return float(known.get("queue", QUEUE_SECONDS)), float(known.get("seconds", self.seconds))

    def _add(self, record: dict[str, Any]) -> None:
        if self.folder is None:
            with self._guard:
                self._records.append(record)
            return
        with (self.folder / "records.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")  # one small write: whole, also among several processes

    def _scripts(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = self._kept("scripts.json") if self.folder is not None else self.scripts
        return found

    def _settings(self) -> dict[str, Any]:
        return self._kept("settings.json") if self.folder is not None else self.settings

    def _write_script(self, verb: str, words: list[str]) -> None:
        self.scripts[verb] = words
        if self.folder is not None:
            (self.folder / "scripts.json").write_text(json.dumps(self.scripts))

    def _kept(self, name: str) -> dict[str, Any]:
        assert self.folder is not None
        try:
            found: dict[str, Any] = json.loads((self.folder / name).read_text("utf-8"))
        except FileNotFoundError:
            return {}
        return found
