"""A run's weights on this disk: as its provider gives them, the adapter alone, or merged into the base model."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Literal, TypeAlias

from anydpo.archive import new_folder
from anydpo.errors import JobInvalid
from anydpo.provider import FetchesAdapters, JobRef, Provider
from anydpo.result import Artifact, Result
from anydpo.trainer_process import run_trainer

Form: TypeAlias = Literal["adapter", "merged"]
ADAPTER = "adapter_config.json"


def bring(
    place: Provider, ref: JobRef, folder: Path, checkpoint: int | None, form: Form | None, result: Result
) -> tuple[Artifact, ...]:
    """Bring weights into a new folder, whole or not at all.

    `adapter` gives them as they were trained, `merged` a whole model that needs no peft. Raises `JobInvalid` where the
    run has no adapter.
    """
    if form is None:
        return place.fetch(ref, folder, checkpoint)
    if trained_whole(result):
        raise _no_adapter(result, form)
    with new_folder(folder) as unfinished:
        if form == "adapter" and isinstance(place, FetchesAdapters):
            place.fetch_adapter(ref, unfinished, checkpoint)
        else:
            place.fetch(ref, unfinished, checkpoint)
        is_adapter = (unfinished / ADAPTER).is_file()
        settle_base(unfinished, result)
        if form == "adapter" and not is_adapter:
            raise _no_adapter(result, form)
        if form == "merged" and is_adapter:
            _merge(unfinished, result)
    return (Artifact(kind="adapter" if form == "adapter" else "model", path=str(folder)),)


def trained_whole(result: Result) -> bool:
    """Say whether a run is known to have trained every weight, so that it has no adapter."""
    return "full" in (result.method.effective.get("adapter"), result.job.get("adapter"))


def settle_base(folder: Path, result: Result) -> None:
    """Let an adapter name its base as this machine knows it, where it names a folder of the machine that trained it."""
    path = folder / ADAPTER
    if not path.is_file() or result.model.requested is None:
        return
    config = json.loads(path.read_text("utf-8"))
    base = Path(str(config.get("base_model_name_or_path")))
    if base.is_absolute() and not base.exists():
        path.write_text(json.dumps({**config, "base_model_name_or_path": result.model.requested}, indent=1), "utf-8")


def python_of(result: Result) -> str | None:
    """Return the interpreter that a job names for the trainer on this machine."""
    named = result.job.get("options", {}).get("local", {}).get("python")
    return str(named) if named else None


def _merge(folder: Path, result: Result) -> None:
    from anydpo.home import home

    with tempfile.TemporaryDirectory(prefix=".merge-", dir=folder.parent) as name:
        config = {"adapter": str(folder), "cache_dir": str(home() / "cache"), "seed": result.job.get("seed", 0)}
        run_trainer("merge", config, Path(name), python_of(result))
        shutil.rmtree(folder)
        (Path(name) / "model").rename(folder)


def _no_adapter(result: Result, form: Form) -> JobInvalid:
    what = "to be merged" if form == "merged" else "to be had alone"
    return JobInvalid(
        f"run {result.run} trained every weight: there is no adapter {what}",
        provider=result.place,
        hint=f"anydpo fetch {result.run} -o DIR brings the whole model",
    )
