"""What goes wrong on purpose: a list of faults, each with the requests it strikes, drawn with one seed."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from anydpo.errors import Invalid

Kind = Literal[
    "lost_reply",  # the request is carried out, the connection dropped without an answer
    "cut_upload",  # the connection drops after `percent` of the body
    "slow",  # body and answer at `bytes_per_second`
    "storm",  # `status` with `retry_after`, nothing carried out
    "late_list",  # the job made by this request is missing from lists for `requests` lists or `seconds`
    "unknown_status",  # the answer's `status` is `word`
    "wrong_hash",  # one byte of the answer differs from what its checksum says
    "half_reply",  # `shape`: an object without its id, JSON cut short, or a connection cut in the body
    "not_eligible",  # this organisation may not fine-tune
    "insufficient_quota",  # the account's quota or credit is used up
    "job_fails",  # the job made by this request ends with `code` and `message`
    "restarted",  # the job made by this request goes on under a new id (Together)
    "interrupted",  # its machines are taken away after each of `steps`, `seconds` after SIGTERM (spot; SageMaker)
]
ON: dict[str, tuple[str, ...]] = {  # what a fault strikes where its `on` is not given
    "cut_upload": ("upload", "put", "part"),
    "unknown_status": ("retrieve",),
    "wrong_hash": ("storage", "content"),
    "slow": ("*",),
    "storm": ("*",),
}


class Fault(BaseModel):
    """One fault. `on` names operations (`create`, `upload`, `retrieve`, `list`, `events` …, or `*`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    fault: Kind
    provider: str | None = None
    on: tuple[str, ...] = ()
    skip: int = Field(0, ge=0, description="matching requests let through first")
    times: int | None = Field(None, ge=1, description="how often; no limit where not given")
    percent: float = Field(100, ge=0, le=100, description="share of requests struck; for cut_upload of the body sent")
    status: int = Field(429, ge=400, le=599)
    retry_after: Literal["seconds", "date", "nonsense"] | None = None
    seconds: float = Field(1, ge=0)
    requests: int = Field(0, ge=0)
    bytes_per_second: int = Field(65536, ge=1)
    steps: tuple[int, ...] = ()
    word: str = "reticulating"
    shape: Literal["no_id", "truncated", "cut"] = "no_id"
    code: str | None = None
    message: str | None = None

    def strikes(self, provider: str, operation: str) -> bool:
        """Say whether this request is one of those it is meant for."""
        where = self.on or ON.get(self.fault, ("create",))
        return self.provider in (None, provider) and ("*" in where or operation in where)


class Faults:
    """The faults in force, and how often each has struck."""

    def __init__(self, faults: Iterable[Fault] = (), seed: int = 0) -> None:
        self._random = random.Random(seed)
        self._seen: list[tuple[Fault, list[int]]] = []
        self.add(faults)

    def add(self, faults: Iterable[Fault]) -> None:
        """Put more faults in force."""
        self._seen += [(fault, [0, 0]) for fault in faults]

    def clear(self) -> None:
        """End every fault."""
        self._seen.clear()

    def strike(self, provider: str, operation: str) -> list[Fault]:
        """Return the faults that strike this request, and count them."""
        struck = []
        for fault, counts in self._seen:
            if not fault.strikes(provider, operation) or (fault.times is not None and counts[1] >= fault.times):
                continue
            counts[0] += 1
            if counts[0] <= fault.skip:
                continue
            if fault.fault != "cut_upload" and fault.percent < 100 and self._random.random() * 100 >= fault.percent:
                continue
            counts[1] += 1
            struck.append(fault)
        return struck


def parse(given: Any) -> tuple[list[Fault], int]:
    """Return (faults, seed) of a script: a list of faults or `{"seed", "faults"}`; raises `Invalid`."""
    script: Mapping[str, Any] = {"faults": given} if isinstance(given, list) else given
    try:
        unknown = set(script) - {"faults", "seed"}
        if unknown:
            raise Invalid(f"faults: unknown key {', '.join(sorted(unknown))}", hint='{"seed": 0, "faults": [...]}')
        return TypeAdapter(list[Fault]).validate_python(script.get("faults", [])), int(script.get("seed", 0))
    except ValidationError as exc:
        first = exc.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Invalid(f"faults: {where}: {first['msg']}", hint="docs/sandbox.md lists every fault") from None
    except (TypeError, ValueError, AttributeError) as exc:
        raise Invalid(f"faults: {exc}", hint='expected a list, or {"seed": 0, "faults": [...]}') from None


def read(path: Path) -> tuple[list[Fault], int]:
    """Read a script from a JSON file; raises `Invalid`."""
    try:
        given = json.loads(path.read_text("utf-8"))
    except ValueError as exc:
        raise Invalid(f"{path}: {exc}") from None
    return parse(given)
