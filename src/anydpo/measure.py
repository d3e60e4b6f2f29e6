"""One run measured on pairs: the trainer's rows, and the figures, intervals and slices made of them."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anydpo.data.write import json_line
from anydpo.errors import RunFailed
from anydpo.home import home
from anydpo.result import Estimate, Evaluation, Reliability, Result, Slice
from anydpo.statistics import (
    Resamples,
    bins_of,
    brier,
    calibration_error,
    log_loss,
    quantile_groups,
    sigmoid,
    wilson,
)
from anydpo.trainer_process import run_trainer
from anydpo.weights import python_of
from anydpo_trainer.config import Method

if TYPE_CHECKING:
    from anydpo.data.dataset import PreferenceDataset
    from anydpo.data.pair import PreferencePair
    from anydpo.evaluation import How

MEASURER, ACCURACY = "anydpo_trainer", "measured/rewards/accuracies"
ROW, KL_ROW = "pairs.jsonl", "divergence.jsonl"  # what the trainer leaves
LENGTHS = ("short", "middle", "long")
MOST_SLICES = 12  # parts of one kind that are told, the largest first
FEW = 5  # pairs below which a part says nothing
DURING_TRAINING = ("precompute_ref_log_probs", "precompute_ref_batch_size", "sync_ref_model", "ref_model_mixup_alpha")


def config_of(result: Result, how: How) -> dict[str, Any]:
    """Return the settings of a measurement, as the trainer takes them, without paths."""
    job, ran = result.job, str(result.method.effective.get("chat_template"))
    return {
        "method": method_of(result),
        "max_length": how.max_length,
        "chat_template": ran if Path(ran).is_file() else job.get("chat_template", "auto"),
        "dtype": how.dtype,
        "kl_prompts": how.kl_prompts,
        "kl_tokens": how.kl_tokens,
        "seed": job.get("seed", 0),
        "by": list(how.by),
        "draws": how.seed,
    }


def method_of(result: Result) -> dict[str, Any]:
    """Return the loss that a run was trained with, as far as it decides what its rewards are."""
    known = {one.name for one in fields(Method)} - {*DURING_TRAINING, "ref_model_sync_steps"}
    asked, ran = result.job.get("method") or {}, result.method.effective.get("method") or {}
    both = {**asked, **{name: value for name, value in ran.items() if value not in (None, "auto")}}
    return {name: value for name, value in sorted(both.items()) if name in known and value is not None}


def measure(
    model: str, wanted: Evaluation, pairs: PreferenceDataset, how: How, result: Result
) -> tuple[Evaluation, list[dict[str, Any]]]:
    """Return (evaluation, one row a pair) of a model folder; the rows count pairs from 0 in the order of the data."""
    kept = [pair for pair in pairs]  # noqa: C416 - a data set is no list
    settings = {name: value for name, value in wanted.settings.items() if name not in ("by", "draws")}
    with tempfile.TemporaryDirectory(prefix="anydpo-") as name:
        folder = Path(name)
        data = folder / "data.jsonl"
        with data.open("wb") as file:
            file.writelines(
                json_line({**pair.to_dict(meta=False), "meta": {"source": str(i)}}) for i, pair in enumerate(kept)
            )
        cache = str(home() / "cache")
        config = {**settings, "model": model, "data": str(data), "ref_model": wanted.reference, "cache_dir": cache}
        found = run_trainer("evaluate", config, folder / "out", python_of(result))
        rows = list(_read(folder / "out" / ROW))
        drawn = list(_read(folder / "out" / KL_ROW))
    rows = [{**row, "pair": int(row["source"]), "source": kept[int(row["source"])].source} for row in rows]
    whole = [row for row in rows if _is_finite(row)]
    if not whole:
        raise RunFailed(f"run {result.run}: the log-probabilities of its model are not numbers", provider=result.place)
    skipped = dict(found["data"]["skipped"])
    if len(whole) < len(rows):
        skipped["not_finite"] = len(rows) - len(whole)
    evaluation = summarise(wanted, whole, [row for row in drawn if math.isfinite(row["kl"])], kept, how)
    told = {
        f"measured/{key.removeprefix('eval/')}": Estimate(value=value)
        for key, value in found["metrics"].items()
        if value is not None and math.isfinite(value)
    }
    return evaluation.model_copy(update={"metrics": {**told, **evaluation.metrics}, "skipped": skipped}), whole


def summarise(
    wanted: Evaluation,
    rows: Sequence[Mapping[str, Any]],
    drawn: Sequence[Mapping[str, Any]],
    pairs: Sequence[PreferencePair],
    how: How,
) -> Evaluation:
    """Return the evaluation that these rows make."""
    margins = [float(row["margin"]) for row in rows]
    table = bins_of(margins)
    compared = Method(**{**wanted.settings["method"], "loss_type": _names(wanted.settings["method"])}).needs_reference
    metrics = {
        **_estimates(columns(rows, shifts=compared), how.seed),
        "measured/calibration/ece": Estimate(value=calibration_error(table)),
        **_divergence(drawn, how.seed),
    }
    notes = [] if compared else ["this loss has no reference: its rewards are no log-ratios, and nothing has shifted"]
    calibration = tuple(Reliability(**one._asdict()) for one in table)
    return wanted.model_copy(
        update={
            "pairs": len(rows),
            "metrics": metrics,
            "calibration": calibration,
            "slices": tuple(_slices(rows, pairs, how)),
            "notes": tuple(notes),
        }
    )


def columns(rows: Sequence[Mapping[str, Any]], *, shifts: bool = True) -> dict[str, list[float]]:
    """Return metric → its value for each pair; a metric is the mean of these."""
    margins = [float(row["margin"]) for row in rows]
    found = {
        ACCURACY: [float(margin > 0) for margin in margins],
        "measured/rewards/margins": margins,
        "measured/calibration/brier": [brier(sigmoid(margin)) for margin in margins],
        "measured/calibration/log_loss": [log_loss(margin) for margin in margins],
    }
    for side in ("chosen", "rejected"):
        found[f"measured/rewards/{side}"] = [float(row[f"rewards/{side}"]) for row in rows]
        found[f"measured/logps/{side}"] = [float(row[f"logps/{side}"]) for row in rows]
        if shifts:
            found[f"measured/logps/{side}_shift"] = [
                float(row[f"logps/{side}"] - row[f"logps/ref_{side}"]) for row in rows
            ]
    return found


def _estimates(values: Mapping[str, Sequence[float]], seed: int) -> dict[str, Estimate]:
    draws = Resamples.of(len(next(iter(values.values()))), seed)
    made = {name: Estimate(**draws.interval(column)._asdict()) for name, column in values.items()}
    if (right := values.get(ACCURACY)) is not None:  # resampling what is always right gives an interval of no width
        made[ACCURACY] = Estimate(**wilson(round(sum(right)), len(right))._asdict())
    return made


def _divergence(drawn: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Estimate]:
    if not drawn:
        return {}
    totals = [float(row["kl"]) for row in drawn]
    tokens = sum(int(row["tokens"]) for row in drawn)
    found = _estimates({"measured/kl": totals}, seed)
    return {**found, "measured/kl_per_token": Estimate(value=sum(totals) / tokens)} if tokens else found


def _slices(rows: Sequence[Mapping[str, Any]], pairs: Sequence[PreferencePair], how: How) -> Iterator[Slice]:
    lengths = [float(row["tokens/chosen"] + row["tokens/rejected"]) for row in rows]
    kinds: dict[str, list[str]] = {"length": quantile_groups(lengths, LENGTHS)}
    kinds["longer answer"] = [_longer(row) for row in rows]
    kinds["source"] = [pairs[row["pair"]].source.rpartition(":")[0] for row in rows]
    for name in how.by:
        kinds[name] = [str(pairs[row["pair"]].meta.get(name, "")) for row in rows]
    for kind, labels in kinds.items():
        sizes = {label: labels.count(label) for label in dict.fromkeys(labels) if label}
        if len(sizes) < 2:
            continue
        order = (
            [name for name in LENGTHS if name in sizes] if kind == "length" else sorted(sizes, key=lambda s: -sizes[s])
        )
        for label in order[:MOST_SLICES]:
            part = [row for row, own in zip(rows, labels, strict=True) if own == label]
            if len(part) < FEW:
                continue
            values = columns(part)
            told = (ACCURACY, "measured/rewards/margins")
            metrics = _estimates({name: values[name] for name in told}, how.seed)
            yield Slice(by=kind, name=label, pairs=len(part), metrics=metrics)


def _is_finite(row: Mapping[str, Any]) -> bool:
    return all(math.isfinite(value) for value in row.values() if isinstance(value, float))


def _longer(row: Mapping[str, Any]) -> str:
    chosen, rejected = row["tokens/chosen"], row["tokens/rejected"]
    return "chosen" if chosen > rejected else "rejected" if rejected > chosen else "neither"


def _names(method: Mapping[str, Any]) -> tuple[str, ...]:
    given = method.get("loss_type", "sigmoid")
    return (given,) if isinstance(given, str) else tuple(given)


def _read(path: Path) -> Iterator[dict[str, Any]]:
    yield from (json.loads(line) for line in path.read_text("utf-8").splitlines())
