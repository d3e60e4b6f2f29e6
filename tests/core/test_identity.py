"""Golden keys: what a job's identity is, written down once; these never change."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from anydpo import DPO, SFT, LoRA, PreferenceJob
from anydpo.identity import V1, V1_LORA, V1_METHOD, V1_SFT, attempt_key, job_fingerprint, run_id

DATA, HELD_OUT = "sha256:" + "1" * 64, "sha256:" + "2" * 64


def fingerprint(place: str = "local", validation: str | None = None, **fields: Any) -> str:
    job = PreferenceJob(**{"model": "tiny", "data": "x.jsonl", **fields})
    return job_fingerprint(job, place, DATA, validation)


def written(**known: Any) -> str:
    """The identity as the contract says it: canonical JSON of what differs from version 1's defaults."""
    text = json.dumps({"data": DATA, "model": "tiny", **known}, sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    ("fields", "known"),
    [
        ({}, {}),
        ({"epochs": 1, "seed": 0, "learning_rate": "auto", "method": DPO()}, {}),
        ({"name": "a", "tags": {"b": "c"}, "data": "elsewhere.jsonl"}, {}),
        ({"options": {"openai": {"x": 1}}}, {}),
        ({"options": {"local": {"optim": "sgd"}}}, {"options": {"optim": "sgd"}}),
        ({"epochs": 3, "learning_rate": 1e-5}, {"epochs": 3, "learning_rate": 1e-05}),
        ({"method": DPO(beta=0.2, loss_type=("sigmoid",))}, {"method": {"beta": 0.2}}),
        (
            {"method": DPO(loss_type=("sigmoid", "sft"), loss_weights=(1, 2))},
            {"method": {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 2.0]}},
        ),
        ({"adapter": LoRA()}, {"adapter": {"lora": {}}}),
        ({"adapter": LoRA(r=8)}, {"adapter": {"lora": {"r": 8}}}),
        ({"adapter": "full"}, {"adapter": "full"}),
        ({"sft": SFT(epochs=2)}, {"sft": {"epochs": 2}}),
    ],
)
def test_fingerprint_covers_what_differs_from_version_1(fields: dict[str, Any], known: dict[str, Any]) -> None:
    assert fingerprint(**fields) == written(**known)


def test_golden_fingerprints() -> None:
    assert fingerprint() == "sha256:8aa3f7a5e693a87f7b4b9d46fa3c93f784fc75e6c5d7aadaaf0f40de08d2bd45"
    assert (
        fingerprint(validation=HELD_OUT, epochs=2, method=DPO(beta=0.3))
        == "sha256:6924abcd6c810ace1ace4d61d65b3e53206e0b870be318063c1c1afe1387129f"
    )
    assert attempt_key(fingerprint(), "local", "", "dpo", 1) == "anydpo-585ebda4fcbbd1d7a5fc241a"
    assert run_id(fingerprint(), "local", "") == "dd06dee38b"


def test_a_place_counts_by_its_own_model_only() -> None:
    table = {"openai": "gpt-4.1-mini-2025-04-14", "default": "tiny"}
    assert fingerprint(model=table) == fingerprint()
    assert fingerprint("openai", model=table) != fingerprint()
    assert fingerprint(model={**table, "openai": "other"}) == fingerprint()


def test_files_count_by_their_content() -> None:
    job = PreferenceJob(model="tiny", data="x", sft=SFT(data="a.jsonl"), chat_template="t.jinja")
    contents = {"sft": "sha256:s", "chat_template": "sha256:t"}
    moved = job.replace(sft=SFT(data="elsewhere/b.jsonl"), chat_template="u.jinja")
    assert job_fingerprint(job, "local", DATA, None, contents) == job_fingerprint(moved, "local", DATA, None, contents)
    other = {**contents, "sft": "sha256:other"}
    assert job_fingerprint(job, "local", DATA, None, other) != job_fingerprint(job, "local", DATA, None, contents)


def test_an_attempt_is_its_job_place_target_stage_and_number() -> None:
    base = ("sha256:a", "openai", "https://api.openai.com", "dpo", 1)
    keys = {attempt_key(*base)}
    for i, other in enumerate(("sha256:b", "azure", "http://127.0.0.1:8000", "sft", 2)):
        changed: list[Any] = list(base)
        changed[i] = other
        keys.add(attempt_key(*changed))
    assert len(keys) == 6
    assert all(len(key) <= 31 and key.replace("-", "").isalnum() for key in keys)


def test_every_field_has_its_version_1_default() -> None:
    """A field added later must be given the value that means "as before", or all identities would change."""
    job = PreferenceJob(model="tiny", data="x", sft=SFT(), adapter=LoRA())
    fields = job.model_dump(mode="json")
    assert (
        V1.keys() | {"name", "tags", "data", "validation", "model", "options", "method", "adapter", "sft"}
        == fields.keys()
    )
    assert V1_METHOD.keys() == fields["method"].keys()
    assert V1_LORA.keys() == fields["adapter"].keys()
    assert V1_SFT.keys() == fields["sft"].keys()
