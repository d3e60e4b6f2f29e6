"""Results as five places would give them, made up but of the right shape, for pages and tables."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

from anydpo.data.pair import PreferencePair
from anydpo.evaluation import How
from anydpo.measure import summarise
from anydpo.measured import keep
from anydpo.result import (
    Attempt,
    Cost,
    Data,
    Error,
    Evaluation,
    Method,
    Metrics,
    Model,
    Notice,
    Result,
    Sample,
    State,
    Timing,
    Usage,
)

PLACES = (
    *("local", "together", "sagemaker/training", "azure/command", "sagemaker/serverless"),
    *("openai", "azure/managed"),
)
QWEN, HELD_OUT = "Qwen/Qwen3-8B", "sha256:" + "7a" * 32
PROMPTS = (
    "Where is the invoice for the lamp?",
    "My kettle arrived broken. What now?",
    "Can I still cancel the order of the bike? I ordered it an hour ago, and it says that it is being packed.",
)


def result(number: int, **fields: Any) -> Result:
    """One run; its curves fall faster the later it stands in the row."""
    place = PLACES[number % len(PLACES)]
    history = curve(number)
    final = {k: v for record in history for k, v in record.items() if "/" in k}
    usual: dict[str, Any] = {
        "run": f"r{number:02d}{'abcdef'[number % 6]}9",
        "name": f"tone-{number}" if number >= len(PLACES) else "support-tone",
        "place": place,
        "provider_job_id": f"job-{number}",
        "state": State.SUCCEEDED,
        "job": {"model": QWEN, "seed": 0, "method": {"beta": 0.1}},
        "model": Model(requested=QWEN, provider_model=QWEN, tuned=f"org/qwen3-8b-tone-{number}"),
        "data": Data(
            fingerprint="sha256:" + "c3" * 32,
            validation_fingerprint=HELD_OUT,
            train_pairs=3_720,
            validation_pairs=412,
            skipped={"tie": 31, "empty_answer": 2},
            format_sent="together" if place == "together" else "canonical",
            bytes_sent=4_718_592,
        ),
        "method": Method(
            requested={"beta": 0.1, "epochs": 1, "learning_rate": "auto"},
            effective={
                "epochs": 1,
                "batch_size": 16,
                "learning_rate": 1e-5 if number % 2 == 0 else 5e-6,
                "method": {"beta": 0.1, "loss_type": ["sigmoid"]},
            },
            differences=("batch_size: 16 was asked for, 8 was run",) if number == 1 else (),
        ),
        "metrics": Metrics(final=final, history=tuple(history)),
        "usage": Usage(train_tokens=1_204_000 + 4_000 * number, epochs=1, steps=233),
        "cost": None if place == "local" else Cost(amount=2.1 + 1.7 * number, basis="billed"),
        "timing": Timing(
            submitted=1.79e9, queue_seconds=4.0 + 90 * (number % 4), train_seconds=610.0 + 47 * ((number * 5) % 7)
        ),
        "samples": tuple(samples(number)),
    }
    return Result(**{**usual, **fields})


def curve(number: int) -> list[dict[str, Any]]:
    """Records of a run as a trainer writes them, with noise of its own."""
    dice, made = random.Random(number), []
    for step in range(1, 234):
        fall = math.exp(-step / (150 - 6 * number))
        record: dict[str, Any] = {
            "step": step,
            "train/loss": 0.28 + 0.41 * fall + dice.gauss(0, 0.012),
            "train/rewards/accuracies": min(1.0, 0.93 - 0.4 * fall + dice.gauss(0, 0.02)),
            "train/rewards/margins": (1.6 + 0.1 * number) * (1 - fall) + dice.gauss(0, 0.03),
            "train/num_tokens": step * 5_170,
        }
        if step % 40 == 0 or step == 233:
            record |= {
                "eval/loss": 0.31 + 0.39 * fall,
                "eval/rewards/accuracies": 0.9 - 0.39 * fall,
                "eval/rewards/margins": (1.4 + 0.1 * number) * (1 - fall),
            }
        made.append(record)
    return made


def samples(number: int) -> list[Sample]:
    """What the model says before and after."""
    base = "The invoice is available. Please consult the relevant section of your account for further information."
    tuned = f"Happy to help! The invoice for the lamp is under orders as a file. ({'thanks ' * (number % 3)}bye)"
    return [Sample(prompt=prompt, base=base, tuned=tuned) for prompt in PROMPTS[: 3 if number % 2 == 0 else 1]]


def measured(home: Path, one: Result, right: float, seed: int, pairs: int = 60) -> Result:
    """The result with a measurement of so many pairs, its rows on disk as the real one's are."""
    dice = random.Random(seed)
    held = [
        PreferencePair(prompt=(), chosen=(), rejected=(), meta={"source": f"part{i % 2}.jsonl:{i}"})
        for i in range(pairs)
    ]
    rows = []
    for i in range(pairs):
        margin = abs(dice.gauss(1.1, 0.8)) * (1 if dice.random() < right else -1)
        row = {"pair": i, "margin": margin, "rewards/chosen": margin / 2, "rewards/rejected": -margin / 2}
        row |= {"logps/chosen": -40 + 5 * margin, "logps/ref_chosen": -40.0}
        row |= {"logps/rejected": -42 - 5 * margin, "logps/ref_rejected": -42.0}
        rows.append({**row, "tokens/chosen": 10 + i % 30, "tokens/rejected": 12 + (i * 7) % 30})
    drawn = [{"kl": abs(dice.gauss(2.4, 0.7)), "tokens": 40} for _ in range(64)]
    wanted = Evaluation(
        kind="pairs",
        data=HELD_OUT,
        files=("held_out.jsonl",),
        pairs=pairs,
        by="anydpo_trainer",
        provider_job_id=one.provider_job_id,
        settings={"method": {"beta": 0.1}},
        when=1.79e9,
    )
    made = keep(home, one.run, summarise(wanted, rows, drawn, held, How()), rows)
    return one.model_copy(update={"evaluations": (made,)})


def several(count: int, home: Path) -> list[Result]:
    """So many runs of one base on the same pairs; one has failed over, and the last warns."""
    made = [measured(home, result(i), 0.78 + 0.014 * i, seed=i) for i in range(count)]
    if count > 1:
        error = Error(code="quota_exceeded", message="the account's quota is used up", hint="wait, or ask for more")
        tries = (Attempt(place="openai", error=error, when=1.79e9), Attempt(place=made[1].place, when=1.79e9 + 60))
        made[1] = made[1].model_copy(update={"attempts": tries})
    note = Notice(code="both_falling", message="both log-probabilities fall. Lower the learning rate, or add sft.")
    made[-1] = made[-1].model_copy(update={"warnings": (note,)})
    return made


def other_base(number: int, home: Path) -> Result:
    """A run of another base on other pairs."""
    model = Model(requested="gpt-4.1-mini-2025-04-14", provider_model="gpt-4.1-mini-2025-04-14", tuned="ft:gpt:x")
    data = Data(fingerprint="sha256:" + "c3" * 32, validation_fingerprint="sha256:" + "1b" * 32, train_pairs=3720)
    return result(number, model=model, data=data, place="openai", run=f"other{number}")


PAYLOAD = "<script>alert(1)</script><img src=x onerror=alert(2)>\x1b[31m=cmd|'/c calc'!A1"


def hostile(home: Path) -> list[Result]:
    """Runs in whose every text stands something that would be run if it were taken for more than text."""
    bad = PAYLOAD
    one = result(
        0,
        name=bad,
        place="local",
        model=Model(requested=bad, provider_model=bad, tuned=bad, how_to_use=bad),
        method=Method(requested={bad: bad}, effective={bad: bad, "epochs": 1}, differences=(bad,)),
        data=Data(fingerprint=bad, skipped={bad: 1}, format_sent=bad, validation_fingerprint=bad, train_pairs=1),
        cost=Cost(amount=1.0, currency=bad, basis=bad),
        samples=(Sample(prompt=bad, base=bad, tuned=bad),),
        attempts=(Attempt(place=bad, error=Error(code=bad, message=bad, hint=bad), when=1.0),),
        error=Error(code=bad, message=bad, hint=bad),
        warnings=(Notice(code=bad, message=bad),),
        state=State.FAILED,
    )
    two = result(1, name=f"={bad}", place=f"@{bad}", run="r2")
    return [measured(home, one, 0.8, seed=1), two]
