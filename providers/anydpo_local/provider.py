"""The local provider's verbs. A job is a folder named by its key, made in one move; its process holds its lock."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from anydpo.background import start_detached
from anydpo.errors import DataInvalid, JobInvalid, Problem, ProviderRefused, RunFailed
from anydpo.home import home
from anydpo.job import PreferenceJob
from anydpo.own_trainer import FIELDS, batch_notes, events
from anydpo.provider import (
    Capabilities,
    DataFile,
    DataSummary,
    Described,
    JobRef,
    Outcome,
    Plan,
    Poll,
    Quote,
    Request,
    Staged,
)
from anydpo.result import Artifact, Sample, State
from anydpo.trainer_process import run_trainer
from anydpo_local import dialect, estimate, machine, taken
from anydpo_trainer import folder as trainer_folder
from anydpo_trainer.config import LOSSES, TINY
from anydpo_trainer.metrics_file import read_since

LOG, CONFIG = "trainer.log", "config.json"
QUIET = {"PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}
MOST_EVENTS = 1000


class LocalProvider:
    """Runs the trainer here, on the GPU if there is one."""

    name: ClassVar[str] = "local"
    capabilities: ClassVar[Mapping[str, Capabilities]] = {
        "": Capabilities(
            about="this machine: the GPU if there is one, else the CPU",
            losses=tuple(LOSSES),
            adapters=("lora", "full"),
            models="tiny, smollm2-135m, a folder, a GGUF file, or a hub id that transformers loads",
            fields=FIELDS,
            beta=None,
            writes="canonical",
            holds=("tools", "weight", "many_messages"),
            weights=True,
            quote=False,
            free=True,
            finds_by_key=True,
            resumable=True,
            poll_seconds=0.3,
        )
    }

    def plan(self, job: PreferenceJob, data: DataSummary, route: str | None = None) -> Plan:  # noqa: ARG002
        """Return the trainer's configuration and what stands against it."""
        problems: list[Problem] = []
        model = job.model_for("local")
        if model is None:
            problems.append(Problem("model", "no_model_here", "the table names no model for local", "add default = …"))
        start, config = None, dict[str, Any]()
        in_4bit = job.load_in_4bit and (machine.gpu_memory() is not None or "load_in_4bit" not in job.allow_ignored)
        if in_4bit and machine.gpu_memory() is None:
            hint = 'allow_ignored = ["load_in_4bit"] goes on without it'
            said = "4-bit weights need an NVIDIA GPU, and none was found here"
            problems.append(Problem("load_in_4bit", "needs_gpu", said, hint))
        try:
            start = _start_folder(job.start_from) if job.start_from else None
            has_validation = data.validation_pairs is not None
            config = dialect.trainer_config(
                job, model or TINY, has_validation=has_validation, start_from=start, in_4bit=in_4bit
            )
        except JobInvalid as exc:
            problems += exc.problems or (Problem("start_from", "no_start", exc.message, exc.hint),)
        python = str(job.options.get("local", {}).get("python", sys.executable))
        if python == sys.executable:
            problems += machine.missing_packages()
        if model is not None and config:
            problems += machine.model_problems(start or model, config)
        warnings = [*job.method.method.advice(), *machine.device_notes(config.get("device", "auto"))]
        warnings += batch_notes(job, data.train_pairs)
        template = (
            "the model's own where it has one, else plain text" if job.chat_template == "auto" else job.chat_template
        )
        return Plan(
            place="local",
            route_reason="the only route: the trainer as a process on this machine",
            model=model,
            format="canonical",
            problems=tuple(problems),
            warnings=tuple(warnings),
            effective={**config, "chat_template": template},
            device="gpu" if machine.gpu_memory() is not None and config.get("device") != "cpu" else "cpu",
            ignored=("load_in_4bit",) if job.load_in_4bit and not in_4bit else (),
            requests=(
                Request(
                    method="RUN",
                    url=f"{' '.join(machine.trainer(python, config))} train {CONFIG} --out ${{run_folder}}",
                    body=config,
                ),
            )
            if config
            else (),
        )

    def quote(self, plan: Plan) -> Quote | None:  # noqa: ARG002
        """Return None: nothing is billed here."""
        return None

    def try_out(self, plan: Plan, sample: DataFile, times: float) -> Quote:
        """Return tokens and seconds of a job, by carrying out its first steps on a few of its pairs."""
        return estimate.try_out(plan, sample, times)

    def stage(self, plan: Plan, file: DataFile) -> Staged:  # noqa: ARG002
        """Return the file as it lies on this disk."""
        if not Path(file.path).is_file():
            raise DataInvalid(f"{file.path}: the staged file is gone")
        return Staged(name=file.name, id=file.path)

    def submit(self, plan: Plan, staged: tuple[Staged, ...], key: str) -> JobRef:
        """Make the run's folder, whole or not at all, and start its trainer unless it runs already."""
        folder = _folder(key)
        if not folder.is_dir():
            request = plan.requests[0]
            config = _filled(request.body, {f"${{{file.name}_file}}": file.id for file in staged})
            config["cache_dir"] = str(home() / "cache")
            folder.parent.mkdir(parents=True, exist_ok=True)
            unfinished = Path(tempfile.mkdtemp(prefix=".new-", dir=folder.parent))
            (unfinished / CONFIG).write_text(json.dumps(config, indent=1), "utf-8")
            (unfinished / "python").write_text(request.url.partition(" -m ")[0], "utf-8")
            try:
                unfinished.rename(folder)
            except OSError:  # another process was first: its folder is this job
                shutil.rmtree(unfinished)
        ref = JobRef(id=key, place="local")
        self.resume(ref)
        return ref

    def find(self, key: str) -> JobRef | None:
        """Return the job whose folder this key names."""
        return JobRef(id=key, place="local") if _folder(key).is_dir() else None

    def resume(self, ref: JobRef) -> None:
        """Start the trainer again if it neither runs nor has ended; it goes on from its last checkpoint."""
        folder = _made(ref)
        if (folder / trainer_folder.RESULT).exists() or trainer_folder.is_held(folder):
            return
        python = (folder / "python").read_text("utf-8")
        config = json.loads((folder / CONFIG).read_text("utf-8"))
        command = [*machine.trainer(python, config), "train", str(folder / CONFIG), "--out", str(folder)]
        start_detached(command, folder / LOG, QUIET)
        machine.wait_for_lock(folder)

    def poll(self, ref: JobRef, cursor: str = "") -> Poll:
        """Return the state and what was written since the cursor, which is a place in each of the two files."""
        folder = _made(ref)
        state = _state(folder)  # before reading, so that a terminal state comes with everything written
        metrics_at, log_at = (int(part) for part in (cursor or "0:0").split(":"))
        records, metrics_end, more_records = read_since(folder / trainer_folder.METRICS, metrics_at, MOST_EVENTS)
        lines, log_end, more_lines = read_since(folder / LOG, log_at, MOST_EVENTS)
        parsed = [json.loads(record) for record in records]
        made = events(parsed, lines)
        more = more_records or more_lines
        return Poll(state=state, events=tuple(made), cursor=f"{metrics_end}:{log_end}", more=more)

    def result(self, ref: JobRef) -> Outcome:
        """Return what the run's folder holds."""
        folder = _made(ref)
        records, _, _ = read_since(folder / trainer_folder.METRICS, 0, None)
        state = _state(folder)
        found = dialect.outcome(folder, state, [json.loads(record) for record in records])
        if state is State.PAUSED:
            return found.model_copy(update={"error": _interrupted(folder)})
        return found

    def cancel(self, ref: JobRef) -> None:
        """Ask the trainer to stop after its step; one that does not run is marked as cancelled."""
        folder = _made(ref)
        if (folder / trainer_folder.RESULT).exists():
            return
        (folder / trainer_folder.STOP).touch()
        if not trainer_folder.is_held(folder):
            trainer_folder.write_json(
                folder / trainer_folder.RESULT, {"schema": 1, "state": "cancelled", "error": None}
            )

    def found(self) -> tuple[tuple[str, JobRef], ...]:
        """Return every job of this home folder; its key is its name."""
        made = sorted((home() / "local").glob("anydpo-*"))
        return tuple((path.name, JobRef(id=path.name, place="local")) for path in made if (path / CONFIG).is_file())

    def take(self, folder: Path) -> JobRef:
        """Return the job that a folder of TRL's, or of another user of transformers' Trainer, is."""
        return JobRef(id=taken.take(folder, CONFIG), place="local")

    def described(self, body: Mapping[str, Any]) -> Described | None:  # noqa: ARG002
        """Return None: this place has no create bodies."""
        return None

    def describe(self, ref: JobRef) -> Described:
        """Return the job of a folder that another trainer has left."""
        found = taken.described(_made(ref))
        if found is None:
            hint = "anydpo doctor --rebuild finds the runs of this machine again"
            raise JobInvalid(f"{ref.id} is a run of ours", provider="local", hint=hint)
        return found

    def fetch(self, ref: JobRef, folder: Path, checkpoint: int | None = None) -> tuple[Artifact, ...]:
        """Copy the trained weights, or a checkpoint's, to a folder that is not there yet or is empty."""
        source = _weights(_made(ref), checkpoint)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise JobInvalid(f"{folder} is not empty", hint="fetch into a new folder")
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        shutil.copytree(source, unfinished, dirs_exist_ok=True)
        unfinished.chmod(0o755)
        if folder.exists():
            folder.rmdir()
        unfinished.rename(folder)
        return (Artifact(kind="model", path=str(folder)),)

    def sample(
        self,
        ref: JobRef,
        prompts: tuple[tuple[dict[str, Any], ...], ...],
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
    ) -> tuple[Sample, ...]:
        """Return completions by the model before DPO and the one after it, drawn with the same seed."""
        folder = _made(ref)
        config = json.loads((folder / CONFIG).read_text("utf-8"))
        base = folder / "sft" if (folder / "sft").is_dir() else None
        models = [str(base) if base else config["start_from"] or config["model"], str(_weights(folder, None))]
        with tempfile.TemporaryDirectory() as name:
            out = Path(name)
            lines = [json.dumps({"prompt": list(prompt)}) + "\n" for prompt in prompts]
            (out / "prompts.jsonl").write_text("".join(lines), "utf-8")
            kept = {key: config[key] for key in ("chat_template", "device", "cache_dir")}
            wish = {"models": models, "prompts": str(out / "prompts.jsonl"), "max_new_tokens": max_tokens}
            asked = {**kept, **wish, "temperature": temperature, "seed": seed}
            run_trainer("generate", asked, out, (folder / "python").read_text("utf-8"), provider="local")
            rows = [json.loads(line) for line in (out / "samples.jsonl").read_text("utf-8").splitlines()]
        before, after = rows[: len(prompts)], rows[len(prompts) :]
        return tuple(
            Sample(prompt=str(prompt[-1]["content"]), base=b["text"], tuned=a["text"])
            for prompt, b, a in zip(prompts, before, after, strict=True)
        )

    def reference(self, ref: JobRef) -> str | None:
        """Return what DPO was held to: named, left by the SFT stage, or the start; None for a bare adapter."""
        folder = _made(ref)
        config = json.loads((folder / CONFIG).read_text("utf-8"))
        before = str(folder / "sft") if (folder / "sft").is_dir() else config["start_from"]
        plain = None if config["adapter"] else config["model"]
        return config["ref_model"] or before or plain


def _folder(key: str) -> Path:
    return home() / "local" / key


def _start_folder(start_from: str) -> str:
    if Path(start_from).is_dir():
        return str(Path(start_from).absolute())
    raise JobInvalid(
        f"{start_from!r} is no folder, and no run of this home", hint="`anydpo fetch RUN -o DIR`, then start_from = DIR"
    )


def _made(ref: JobRef) -> Path:
    """Return the folder of a job that was submitted here."""
    folder = _folder(ref.id)
    if not (folder / CONFIG).is_file():
        raise ProviderRefused(f"there is no job {ref.id} on this machine", provider="local", hint=f"looked in {folder}")
    return folder


def _state(folder: Path) -> State:
    held = trainer_folder.is_held(folder)  # first: a trainer that ends in between has left its result
    try:
        found = State(json.loads((folder / trainer_folder.RESULT).read_text("utf-8"))["state"])
    except (OSError, ValueError, KeyError):
        if not held:
            return State.PAUSED
        return State.RUNNING if (folder / trainer_folder.METRICS).exists() else State.QUEUED
    return found


def _interrupted(folder: Path) -> Any:
    from anydpo.result import Error

    tail = [line for line in (folder / LOG).read_text("utf-8", "replace").splitlines() if line.strip()][-1:]
    said = f"; its last words: {tail[0]}" if tail else ""
    return Error(code="interrupted", message=f"the trainer was stopped before it ended{said}", hint="anydpo resume RUN")


def _weights(folder: Path, checkpoint: int | None) -> Path:
    if checkpoint is None:
        if not (folder / "model").is_dir():
            raise RunFailed("this run has left no model yet", provider="local")
        return folder / "model"
    kept = sorted((folder / "checkpoints").glob("dpo-step-*"))
    for path in kept:
        if int(path.name.rpartition("-")[2]) == checkpoint:
            return path / "model"
    steps = ", ".join(str(int(path.name.rpartition("-")[2])) for path in kept) or "none"
    raise JobInvalid(f"no checkpoint at step {checkpoint}", hint=f"kept are: {steps}; save_steps sets how often")


def _filled(value: Any, places: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(item, places) for key, item in value.items()}
    return places.get(value, value) if isinstance(value, str) else value
