"""From our words to the trainer's and back: a job to its configuration, its files to an outcome."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from anydpo import own_trainer
from anydpo.job import PreferenceJob
from anydpo.provider import Outcome
from anydpo.result import Artifact, Model, State
from anydpo_trainer.folder import METRICS, PAIRS, RESULT

OURS = ("python",)


def trainer_config(
    job: PreferenceJob, model: str, *, has_validation: bool, start_from: str | None, in_4bit: bool
) -> dict[str, Any]:
    """Return the trainer's configuration with placeholders where files will stand; `JobInvalid` if it is refused."""
    given = job.chat_template
    return own_trainer.trainer_config(
        job,
        model,
        place="local",
        has_validation=has_validation,
        start_from=start_from,
        chat_template=given if given in ("auto", "none") else str(Path(given).absolute()),
        in_4bit=in_4bit,
        ours=OURS,
    )


def outcome(folder: Path, state: State, records: list[dict[str, Any]]) -> Outcome:
    """Return what a run's folder says of it; the folder of an unfinished run says less."""
    result, weights = _read(folder / RESULT), str(folder / "model")
    done = state is State.SUCCEEDED
    start = (result.get("model") or {}).get("start")
    model = own_trainer.model_of(result, weights, weights, weights) if done else Model(provider_model=start)
    return own_trainer.outcome(result, state, records, model=model, artifacts=_artifacts(folder))


def _artifacts(folder: Path) -> list[Artifact]:
    kinds = {"model": "model", "sft": "sft_model", METRICS: "metrics", PAIRS: "pairs", "trainer.log": "log"}
    made = [Artifact(kind=kind, path=str(folder / name)) for name, kind in kinds.items() if (folder / name).exists()]
    return made + [
        Artifact(kind="checkpoint", path=str(path / "model"), step=int(path.name.rpartition("-")[2]))
        for path in sorted((folder / "checkpoints").glob("dpo-step-*"))
    ]


def _read(path: Path) -> dict[str, Any]:
    try:
        made: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return made
