"""What we measured of a run, kept in the home folder beside the journal: evaluations, and sample completions."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from anydpo.data.write import whole_file
from anydpo.result import Evaluation, Result, Sample

FOLDER, SAMPLES = "evaluations", "samples.json"
KEPT = 20  # samples of a run, the newest first
RUN = re.compile(r"[A-Za-z0-9._-]+")


def with_measurements(result: Result, home: Path) -> Result:
    """Return the result with the evaluations and samples of the model it has now; an earlier attempt's are left out."""
    if not (folder := _of(home, result.run)).is_dir():
        return result
    found = [one for one in _evaluations(folder) if one.provider_job_id == result.provider_job_id]
    samples = _samples(folder, result.provider_job_id)
    return result.model_copy(update={"evaluations": tuple(found), "samples": tuple(samples) or result.samples})


def keep(home: Path, run: str, evaluation: Evaluation, rows: Iterable[Mapping[str, Any]]) -> Evaluation:
    """Write an evaluation and its rows, one line a pair; the same measurement again replaces the earlier one."""
    folder = _of(home, run)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name_of(evaluation)}.json"
    made = evaluation.model_copy(update={"rows": str(path.with_suffix(".jsonl"))})
    with whole_file(path.with_suffix(".jsonl")) as file:
        file.writelines(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)
    with whole_file(path) as file:
        file.write(made.model_dump_json(indent=1).encode())
    return made


def kept(home: Path, run: str, wanted: Evaluation) -> Evaluation | None:
    """Return the evaluation that was made with the same settings on the same pairs, None where there is none."""
    path = _of(home, run) / f"{name_of(wanted)}.json"
    found = _read(path)
    return found if found is not None and Path(found.rows or "").is_file() else None


def name_of(evaluation: Evaluation) -> str:
    """Return the name under which a measurement is kept: what was measured, on which pairs, how, of which job."""
    how = [evaluation.by, evaluation.reference, evaluation.settings, evaluation.provider_job_id]
    digest = hashlib.sha256(json.dumps(how, sort_keys=True).encode()).hexdigest()
    return f"{evaluation.kind}-{evaluation.data.rpartition(':')[2][:16]}-{digest[:8]}"


def rows_of(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Return the rows of an evaluation, none where their file is gone."""
    try:
        lines = Path(evaluation.rows or "").read_text("utf-8").splitlines()
    except OSError:
        return []
    return [json.loads(line) for line in lines]


def keep_samples(home: Path, run: str, job: str | None, samples: Sequence[Sample]) -> None:
    """Add completions to those kept of a run; the newest stand first, and a prompt stands once."""
    folder = _of(home, run)
    folder.mkdir(parents=True, exist_ok=True)
    newest = {one.prompt: one for one in [*_samples(folder, job), *samples]}  # the last of each prompt
    order = list(dict.fromkeys([*(one.prompt for one in samples), *newest]))[:KEPT]
    rows = {"provider_job_id": job, "samples": [newest[prompt].model_dump(mode="json") for prompt in order]}
    with whole_file(folder / SAMPLES) as file:
        file.write(json.dumps(rows, ensure_ascii=False, indent=1).encode())


def _of(home: Path, run: str) -> Path:
    assert RUN.fullmatch(run), run
    return home / FOLDER / run


def _evaluations(folder: Path) -> Iterator[Evaluation]:
    found = [_read(path) for path in folder.glob("*.json") if path.name != SAMPLES]
    yield from sorted((one for one in found if one is not None), key=lambda one: one.when or 0)


def _read(path: Path) -> Evaluation | None:
    """Return an evaluation; one that is gone, or that another version wrote in another form, is measured again."""
    try:
        return Evaluation.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def _samples(folder: Path, job: str | None) -> list[Sample]:
    try:
        found = json.loads((folder / SAMPLES).read_text("utf-8"))
        return [Sample(**row) for row in found["samples"]] if found["provider_job_id"] == job else []
    except (OSError, ValueError, KeyError, TypeError):
        return []
