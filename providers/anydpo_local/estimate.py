"""How long a job takes here, found out by carrying out its first steps on a few of its pairs."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from anydpo.errors import RunFailed
from anydpo.home import home
from anydpo.provider import DataFile, Plan, Quote
from anydpo.result import Cost
from anydpo.trainer_process import run_trainer
from anydpo_trainer.metrics_file import read_since

MOST_SECONDS = 600.0  # after which a trial says nothing
FREE = Cost(amount=0.0, basis="nothing is billed here")


def try_out(plan: Plan, sample: DataFile, times: float) -> Quote:
    """Return tokens and seconds of a job of which `sample` holds some pairs, all of them `times` as much."""
    request = plan.requests[0]
    python = request.url.partition(" -m ")[0]
    config = _short(request.body, sample.path)
    try:
        seen = _measured(python, config, sample)
    except RunFailed as exc:
        return Quote(cost=FREE, assumptions=(f"its time is not known, a trial failed: {exc.message}",))
    job, tokens, seconds = request.body, 0.0, float(seen["start"])
    for stage in seen["stages"]:
        passes = job["sft"]["epochs"] if stage["name"] == "sft" else job["epochs"]
        if stage["name"] == "dpo" and job.get("max_steps"):
            passes = job["max_steps"] * job["batch_size"] / (sample.pairs * times)
        whole = stage["tokens"] * times * passes
        tokens += whole
        seconds += whole * stage["seconds_a_token"]
    device = "the GPU" if plan.device == "gpu" else "the CPU"
    said = f"on {device}, as {seen['steps']} steps on {sample.pairs} pairs were measured; without evaluation and saving"
    return Quote(cost=FREE, tokens=round(tokens), seconds=round(seconds, 1), assumptions=(said,))


def _short(body: dict[str, Any], path: str) -> dict[str, Any]:
    """Return the configuration of a trial: one pass over the sample, nothing evaluated and nothing cached."""
    made = {**body, "train_data": path, "validation_data": None, "epochs": 1, "max_steps": None}
    made |= {
        "eval_steps": None,
        "save_steps": None,
        "early_stopping_patience": None,
        "cache_dir": str(home() / "cache"),
    }
    made["method"] = {**body["method"], "precompute_ref_log_probs": False}
    if body.get("sft"):
        made["sft"] = {**body["sft"], "epochs": 1, "data": "chosen"}
    return made


def _measured(python: str, config: dict[str, Any], sample: DataFile) -> dict[str, Any]:
    """Return what a trial has shown; the same trial is not made twice."""
    about = {**config, "train_data": sample.sha256, "cache_dir": None, "python": python}
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:24]
    known = home() / "cache" / "trials" / f"{key}.json"
    if known.is_file():
        found: dict[str, Any] = json.loads(known.read_text("utf-8"))
        return found
    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        began = time.time()
        run_trainer("train", config, out, python, provider="local", seconds=MOST_SECONDS)
        records, _, _ = read_since(out / "metrics.jsonl", 0, None)
    made = _rates([json.loads(record) for record in records], began)
    known.parent.mkdir(parents=True, exist_ok=True)
    known.write_text(json.dumps(made), "utf-8")
    return made


def _rates(records: list[dict[str, Any]], began: float) -> dict[str, Any]:
    """Return the time before the first step, and of each stage its tokens and the seconds that one takes."""
    stages, steps = [], [record for record in records if record.get("total_steps")]
    for name in dict.fromkeys(record["stage"] for record in steps):
        prefix = "train" if name == "dpo" else name
        seen = [(record["time"], record[f"{prefix}/num_tokens"]) for record in steps if record["stage"] == name]
        (first, first_tokens), (last, tokens) = seen[0], seen[-1]
        before = (first, first_tokens) if len(seen) > 1 else (began, 0)  # a single step has all that goes before it
        rate = (last - before[0]) / (tokens - before[1])
        stages.append({"name": name, "tokens": tokens, "seconds_a_token": rate})
    begins = steps[0]["time"] - began
    first_step = (
        stages[0]["seconds_a_token"] * steps[0][f"{'train' if steps[0]['stage'] == 'dpo' else 'sft'}/num_tokens"]
    )
    return {"start": max(0.0, begins - first_step), "steps": len(steps), "stages": stages}
