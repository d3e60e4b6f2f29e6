"""What is OpenAI's own: the body on the wire, dates, bounds, large uploads, results files, pausing."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

import anydpo
from anydpo import errors
from anydpo.plan import prepare
from anydpo.provider import CanPause, CanResume
from anydpo.registry import using
from anydpo.result import State
from anydpo_openai import OpenAIProvider, dialect
from anydpo_openai.service import OPENAI
from tests.providers.clouds import GPT, Cloud, a_cloud, a_job


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    yield from a_cloud("openai", tmp_path, monkeypatch)


def planned(today: date = date(2026, 11, 25), **fields: Any) -> anydpo.Plan:
    with using(OpenAIProvider(lambda: today)):
        return prepare(a_job(**fields), "openai").plan


def problems(plan: anydpo.Plan) -> list[tuple[str, str]]:
    return [(problem.field, problem.code) for problem in plan.problems]


def test_the_create_body_has_the_keys_in_the_sdks_order() -> None:
    """Facts, section 5: model, training_file, integrations, metadata, method, seed, suffix, validation_file."""
    plan = planned(
        validation=0.2,
        seed=7,
        tags={"team": "tone"},
        method=anydpo.DPO(beta=0.3),
        options={"openai": {"learning_rate_multiplier": 0.5, "wandb": {"project": "tone"}}},
    )
    (create,) = [request for request in plan.requests if request.url.endswith("/jobs")]
    assert create.url == "https://api.openai.com/v1/fine_tuning/jobs"
    assert create.body == {
        "model": GPT,
        "training_file": "${training_file}",
        "integrations": [{"type": "wandb", "wandb": {"project": "tone"}}],
        "metadata": {"team": "tone", "anydpo": "${key}"},
        "method": {
            "type": "dpo",
            "dpo": {"hyperparameters": {"batch_size": 8, "learning_rate_multiplier": 0.5, "n_epochs": 1, "beta": 0.3}},
        },
        "seed": 7,
        "suffix": "jars",
        "validation_file": "${validation_file}",
    }
    assert list(create.body) == "model training_file integrations metadata method seed suffix validation_file".split()
    assert (plan.target, plan.sandbox) == ("https://api.openai.com", False)


def test_organisation_and_project_are_part_of_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-2")
    assert planned().target == "https://api.openai.com org-1 proj-2"


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"learning_rate": 1e-5}, ("learning_rate", "not_honoured")),
        ({"max_steps": 3}, ("max_steps", "not_honoured")),
        ({"warmup_ratio": 0.2}, ("warmup_ratio", "not_honoured")),
        ({"adapter": anydpo.LoRA(r=4)}, ("adapter", "not_honoured")),
        ({"method": anydpo.DPO(loss_type="ipo")}, ("method.loss_type", "not_honoured")),
        ({"method": anydpo.DPO(label_smoothing=0.1)}, ("method.label_smoothing", "not_honoured")),
        ({"method": anydpo.DPO(beta=2.5)}, ("method.beta", "out_of_range")),
        ({"epochs": 51}, ("epochs", "out_of_range")),
        ({"batch_size": 257}, ("batch_size", "out_of_range")),
        ({"sft": anydpo.SFT(learning_rate=1e-4)}, ("sft.learning_rate", "not_honoured")),
        ({"model": "Qwen/Qwen3-8B"}, ("model", "no_model_here")),
        ({"model": {"together": "Qwen/Qwen3-8B"}}, ("model", "no_model_here")),
        ({"start_from": "ftjob-abc"}, ("start_from", "not_a_model")),
        ({"options": {"openai": {"suffix": "x" * 65}}}, ("options.openai.suffix", "wrong_value")),
        (
            {"options": {"openai": {"learning_rate_multiplier": "0.1"}}},
            ("options.openai.learning_rate_multiplier", "wrong_value"),
        ),
        ({"options": {"openai": {"wandb": {"key": "k"}}}}, ("options.openai.wandb", "wrong_value")),
    ],
)
def test_what_cannot_be_honoured_is_a_problem(fields: dict[str, Any], found: tuple[str, str]) -> None:
    assert problems(planned(**fields)) == [found]


def test_auto_asks_for_nothing_and_what_is_allowed_is_ignored() -> None:
    assert planned(learning_rate="auto").ok
    plan = planned(
        learning_rate=1e-5, sft=anydpo.SFT(learning_rate=1e-4), allow_ignored=("learning_rate", "sft.learning_rate")
    )
    assert plan.ok
    assert sorted(plan.ignored) == ["learning_rate", "sft.learning_rate"]


def test_a_misspelt_option_gets_the_nearest_name() -> None:
    (problem,) = planned(options={"openai": {"learning_rate_multipler": 1}}).problems
    assert problem.hint == "did you mean learning_rate_multiplier?"


def test_too_few_pairs_are_a_problem() -> None:
    rows = [{"prompt": f"{i}?", "chosen": "Yes.", "rejected": "No."} for i in range(9)]
    assert problems(planned(data=anydpo.load(rows))) == [("data", "too_few")]


@pytest.mark.parametrize(
    ("today", "model", "found", "warned"),
    [
        (
            date(2026, 10, 22),
            "gpt-4.1-nano-2025-04-14",
            [],
            "gpt-4.1-nano-2025-04-14 and all that is tuned from it: the last day is 2026-10-23",
        ),
        (date(2026, 10, 23), "gpt-4.1-nano-2025-04-14", [("model", "retired")], ""),
        (date(2026, 11, 25), GPT, [], "new jobs: the last day is 2027-01-06"),
        (date(2027, 1, 6), GPT, [], "new jobs: the last day is 2027-01-06"),
        (date(2027, 1, 7), GPT, [("place", "closed")], ""),
        (date(2027, 1, 14), f"ft:{GPT}:org:tone:abc", [("place", "closed"), ("model", "retired")], ""),
        (date(2026, 11, 25), "gpt-9", [], "gpt-9 is not in the list of DPO models"),
    ],
)
def test_ends_are_told_in_advance(today: date, model: str, found: list[tuple[str, str]], warned: str) -> None:
    plan = planned(today, model=model)
    assert problems(plan) == found
    assert any(warned in text for text in plan.warnings)


def test_in_a_rehearsal_an_end_is_only_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    plan = planned(date(2030, 1, 1))
    assert (plan.ok, plan.sandbox) == (True, True)


def test_a_plan_made_before_the_end_is_not_sent_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned(date(2026, 11, 25))
    with pytest.raises(errors.ModelRetired):
        OpenAIProvider(lambda: date(2027, 1, 14)).submit(plan, (), "anydpo-0123456789abcdef01234567")


def test_a_quote_is_tokens_times_the_dated_price() -> None:
    plan = planned(epochs=3)
    quote = OpenAIProvider().quote(plan)
    assert quote is not None
    assert quote.tokens is not None
    assert quote.cost.amount == pytest.approx(quote.tokens * 5.0 / 1e6, abs=1e-4)
    assert quote.cost.basis == "price list 2026-11-23"
    assert "could not be read" in quote.assumptions[0]
    assert OpenAIProvider().quote(planned(model="gpt-9")) is None


def test_a_large_file_goes_in_parts_and_only_a_whole_one_is_kept(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {**OPENAI.facts, "limits": {**OPENAI.limits, "file_bytes": 1000, "part_bytes": 2000}}
    monkeypatch.setattr(OpenAIProvider, "service", replace(OPENAI, facts=small))
    cloud.by_hand()
    parts = [entry for entry in cloud.box.requests("openai") if "/parts" in entry["path"]]
    assert len(parts) == 4
    assert not cloud.sent("upload")
    cloud.box.break_({"fault": "cut_upload", "percent": 50, "times": 1, "on": ["part"]})
    run = cloud.submit(
        data=anydpo.load([{"prompt": f"{i} " * 40, "chosen": "Yes.", "rejected": "No."} for i in range(20)])
    )
    assert len(cloud.dispatch.journal.attempts(run)) == 1
    assert cloud.made() == 2
    assert [entry for entry in cloud.box.requests("openai") if entry["path"].endswith("/cancel")]


def test_pause_and_resume(cloud: Cloud) -> None:
    ref = cloud.by_hand()
    provider: Any = cloud.provider
    assert all(isinstance(cloud.provider, power) for power in (CanPause, CanResume))
    for _ in range(5):
        if provider.poll(ref).state is State.RUNNING:
            break
    provider.pause(ref)
    assert provider.poll(ref).state is State.PAUSED
    provider.resume(ref)
    assert cloud.ended(ref) is State.SUCCEEDED


def test_checkpoints_are_models_that_training_goes_on_from(cloud: Cloud) -> None:
    ref = cloud.by_hand()
    cloud.ended(ref)
    checkpoints = [artifact.path for artifact in cloud.provider.result(ref).artifacts if artifact.kind == "checkpoint"]
    assert checkpoints
    assert all(dialect.start_model(path, OPENAI) == (path, None) for path in checkpoints)


CSV = "step,train_loss,train_accuracy,full_valid_loss,reward_gap\n1,0.69,0.5,,0.1\n2,nan,0.75,0.6,0.2\n"


@pytest.mark.parametrize(
    "content",
    [CSV.encode(), base64.b64encode(CSV.encode()), b"\xef\xbb\xbf" + CSV.encode()],
    ids=["plain", "base64", "bom"],
)
def test_a_results_file_keeps_every_column(content: bytes) -> None:
    assert dialect.rows_of(content, OPENAI) == [
        {"step": 1, "train/loss": 0.69, "train/mean_token_accuracy": 0.5, "provider/reward_gap": 0.1},
        {
            "step": 2,
            "train/loss": None,
            "train/mean_token_accuracy": 0.75,
            "eval/loss": 0.6,
            "provider/reward_gap": 0.2,
        },
    ]
    assert dialect.rows_of(b"", OPENAI) == dialect.rows_of(b"\x00\xff not csv", OPENAI) == []


def test_every_documented_status_has_a_state() -> None:
    """The enum of the specification, and the one word that only its sample of a paused job has."""
    import json

    spec = json.loads((Path(__file__).parents[2] / "specs" / "openai-fine-tuning.json").read_text())
    words = spec["components"]["schemas"]["FineTuningJob"]["properties"]["status"]["enum"]
    states = {word: OPENAI.state(word) for word in [*words, "paused"]}
    assert None not in states.values()
    assert [word for word, state in states.items() if state and state.done] == ["succeeded", "failed", "cancelled"]
    assert OPENAI.state("reticulating") is None
