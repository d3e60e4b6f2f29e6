"""What is Together's own: losses in its words, the body on the wire, restarts, its checks of files, weights."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import anydpo
from anydpo import errors
from anydpo.adapter import create_of, filled
from anydpo.plan import Prepared
from anydpo.result import State
from anydpo_together import dialect, request
from tests.providers.clouds import QWEN, Cloud, a_cloud, a_job


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    yield from a_cloud("together", tmp_path, monkeypatch)


def planned(**fields: Any) -> anydpo.Plan:
    return anydpo.check(a_job(**fields), "together")


def body(**fields: Any) -> dict[str, Any]:
    plan = planned(**fields)
    assert plan.ok, plan.problems
    return plan.requests[-1].body


def problems(**fields: Any) -> list[tuple[str, str]]:
    return [(problem.field, problem.code) for problem in planned(**fields).problems]


def test_the_create_body() -> None:
    """The minimal body of the facts, section 5, in its order, with what a job says and the service does not assume."""
    made = body()
    assert made == {
        "training_file": "${training_file}",
        "validation_file": "",
        "packing": True,
        "model": QWEN,
        "n_epochs": 1,
        "learning_rate": 1e-5,
        "lr_scheduler": {"lr_scheduler_type": "linear", "lr_scheduler_args": {"min_lr_ratio": 0.0}},
        "warmup_ratio": 0.1,
        "max_grad_norm": 1.0,
        "weight_decay": 0.0,
        "n_checkpoints": 1,
        "n_evals": 0,
        "batch_size": 8,
        "early_stopping_enabled": False,
        "training_method": {
            "method": "dpo",
            "dpo_beta": 0.1,
            "dpo_normalize_logratios_by_length": False,
            "dpo_reference_free": False,
        },
        "suffix": "${key}",
        "random_seed": 0,
    }
    golden = (
        "training_file validation_file packing model n_epochs learning_rate lr_scheduler warmup_ratio max_grad_norm"
        " weight_decay n_checkpoints n_evals batch_size early_stopping_enabled training_method"
    ).split()
    assert [name for name in made if name in golden] == golden


def test_the_body_is_what_the_sdk_itself_would_send() -> None:
    """`create_finetune_request` of the SDK, with the same arguments: every field that both know has the same value."""
    from together.lib.resources.fine_tuning import create_finetune_request
    from together.types.finetune_model_limits import FinetuneModelLimits

    sizes = {"max_batch_size": 32, "max_batch_size_dpo": 32, "min_batch_size": 1}
    limits = FinetuneModelLimits.construct(
        supports_vision=False, min_max_seq_length=1, max_seq_length_dpo=8192, max_seq_length_sft=8192,
        lora_training=type("L", (), {**sizes, "default_rank": 64, "max_rank": 64}), full_training=None,
    )  # fmt: skip
    theirs, _, _ = create_finetune_request(
        limits, "${training_file}", QWEN, validation_file="${validation_file}", n_evals=1, batch_size=8, lora=True,
        lora_r=16, lora_alpha=32, learning_rate=2e-5, lr_scheduler_type="cosine", warmup_ratio=0.05, suffix="${key}",
        random_seed=3, training_method="dpo", dpo_beta=0.2, rpo_alpha=0.5, max_seq_length=2048,
    )  # fmt: skip
    ours = body(
        validation=0.2, adapter=anydpo.LoRA(r=16, lora_alpha=32), learning_rate=2e-5, lr_scheduler_type="cosine",
        warmup_ratio=0.05, seed=3, max_length=2048,
        method=anydpo.DPO(beta=0.2, loss_type=("sigmoid", "sft"), loss_weights=(1.0, 0.5)),
    )  # fmt: skip
    assert ours == theirs.model_dump(mode="json", exclude_none=True)


LOSSES: list[tuple[Any, dict[str, Any]]] = [
    ({"loss_type": "sigmoid"}, {}),
    ({"loss_type": "sigmoid", "reference_free": True}, {"dpo_reference_free": True}),
    ({"loss_type": "sigmoid_norm", "beta": 5.0}, {"dpo_beta": 5.0, "dpo_normalize_logratios_by_length": True}),
    ({"loss_type": ("sigmoid", "sft")}, {"rpo_alpha": 1.0}),
    ({"loss_type": ("sft", "sigmoid"), "loss_weights": (0.25, 1.0)}, {"rpo_alpha": 0.25}),
    (
        {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 1.0},
        {"dpo_beta": 2.0, "simpo_gamma": 1.0, "dpo_reference_free": True, "dpo_normalize_logratios_by_length": True},
    ),
]


@pytest.mark.parametrize(("method", "sent"), LOSSES, ids=lambda each: str(each.get("loss_type", "")))
def test_losses_in_its_words_and_back(method: dict[str, Any], sent: dict[str, Any]) -> None:
    usual = {"method": "dpo", "dpo_beta": 0.1, "dpo_normalize_logratios_by_length": False, "dpo_reference_free": False}
    told = body(method=anydpo.DPO(**method))["training_method"]
    assert told == usual | sent
    back = request.effective_of({"training_method": told})["method"]
    wanted = method["loss_type"]
    assert back["loss_type"] == ([*sorted(wanted, reverse=True)] if isinstance(wanted, tuple) else wanted)
    assert back["beta"] == method.get("beta", 0.1)


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"method": anydpo.DPO(loss_type="ipo")}, ("method.loss_type", "not_honoured")),
        ({"method": anydpo.DPO(loss_type="sft")}, ("method.loss_type", "no_such_sum")),
        ({"method": anydpo.DPO(loss_type=("sigmoid", "sigmoid_norm"))}, ("method.loss_type", "no_such_sum")),
        (
            {"method": anydpo.DPO(loss_type=("sigmoid", "sft"), loss_weights=(2.0, 1.0))},
            ("method.loss_weights", "not_honoured"),
        ),
        ({"lr_scheduler_type": "constant"}, ("lr_scheduler_type", "not_honoured")),
        ({"max_steps": 5}, ("max_steps", "not_honoured")),
        ({"model": "tiny"}, ("model", "no_model_here")),
        ({"model": "openai/gpt-oss-20b", "batch_size": 16}, ("batch_size", "out_of_range")),
        ({"model": "openai/gpt-oss-20b", "max_length": 10_000}, ("max_length", "out_of_range")),
        ({"adapter": anydpo.LoRA(lora_alpha=8.5)}, ("adapter.lora_alpha", "out_of_range")),
        ({"options": {"together": {"wandb_api_key": "k"}}}, ("options.together.wandb_api_key", "secret")),
        ({"options": {"together": {"n_checkpoint": 2}}}, ("options.together.n_checkpoint", "unknown_field")),
        ({"options": {"together": {"n_checkpoints": True}}}, ("options.together.n_checkpoints", "wrong_value")),
    ],
)
def test_what_cannot_be_honoured_is_a_problem(fields: dict[str, Any], found: tuple[str, str]) -> None:
    assert problems(**fields) == [found]


def test_a_batch_that_nobody_asked_for_is_what_the_model_takes() -> None:
    job = anydpo.PreferenceJob(model="openai/gpt-oss-20b", data=a_job().data)
    plan = anydpo.check(job, "together")
    assert plan.requests[-1].body["batch_size"] == 8
    assert any("the batch is 8" in text for text in plan.warnings)


def test_keys_of_others_travel_from_the_environment_and_stand_in_no_plan(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"together": {"wandb_project_name": "tone", "hf_output_repo_name": "me/tone"}}
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert [code for _, code in problems(options=options)] == ["no_credential", "no_credential"]
    monkeypatch.setenv("WANDB_API_KEY", "canary-wandb")
    monkeypatch.setenv("HF_TOKEN", "canary-hf")
    plan = planned(options=options)
    assert "canary" not in plan.model_dump_json()
    cloud.by_hand(options=options)
    assert plan.requests[-1].body["wandb_key"] == "${wandb_key}"
    known = {**cloud.provider._secret_values(), "training_file": "file-1", "key": "anydpo-1"}
    sent = filled(create_of(plan, request.JOBS), known)
    assert (sent["wandb_key"], sent["hf_api_token"]) == ("canary-wandb", "canary-hf")


def test_early_stopping_asks_for_as_many_evaluations_as_it_needs() -> None:
    made = body(early_stopping_patience=3, validation=0.2, eval_steps=2, save_steps=1)
    assert (made["early_stopping_enabled"], made["early_stopping_patience"], made["n_evals"]) == (True, 3, 5)
    assert made["n_checkpoints"] == math.ceil(len(a_job().data) * 0.8 / 8)
    assert "early_stopping_min_delta" not in made


def test_a_row_that_the_service_refuses_is_named_as_the_user_knows_it(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    service: Any = cloud.box.services["together"]
    real = service.files.findings
    monkeypatch.setattr(service.files, "findings", lambda file: refused(real(file)))

    def refused(found: Any) -> Any:
        found.wrong = [(7, "the answer is empty")]
        return found

    with pytest.raises(errors.DataInvalid) as caught:
        cloud.submit()
    assert "row 7" in caught.value.message or ":7" in caught.value.message or "7" in caught.value.message
    assert cloud.made() == 0


@pytest.mark.parametrize(
    ("file", "state", "lines"),
    [
        ({"processing_status": "PENDING"}, "pending", []),
        ({"processing_status": "RUNNING"}, "pending", []),
        ({"processing_status": "COMPLETED", "validation_report": {"valid": True}}, "accepted", []),
        (
            {
                "processing_status": "INVALID_FORMAT",
                "validation_report": {"valid": False, "error": "Line 12: bad role"},
            },
            "refused",
            [12],
        ),
        ({"processing_status": "FAILED"}, "refused", [None]),
        ({"Processed": True}, "accepted", []),
        ({"Processed": False}, "pending", []),
    ],
)
def test_what_its_check_of_a_file_says(file: dict[str, Any], state: str, lines: list[int | None]) -> None:
    found = dialect.examined(file)
    assert (found.state, [finding.line for finding in found.findings]) == (state, lines)


def test_a_restarted_job_is_followed_under_its_new_id(cloud: Cloud) -> None:
    cloud.box.break_({"fault": "restarted"})
    ref = cloud.by_hand()
    assert cloud.ended(ref) is State.SUCCEEDED
    outcome = cloud.provider.result(ref)
    assert outcome.state is State.SUCCEEDED
    assert outcome.stages[0].provider_job_id != ref.id
    assert any("restarted" in text for text in outcome.warnings)
    assert len(cloud.sent()) == 1
    seen = cloud.provider.poll(ref)
    assert cloud.provider.poll(ref, seen.cursor).events == ()


def test_a_user_error_is_a_failure_with_its_words(cloud: Cloud) -> None:
    cloud.box.break_({"fault": "job_fails", "code": "bad_data", "message": "Row 3 is longer than the context."})
    ref = cloud.by_hand()
    assert cloud.ended(ref) is State.FAILED
    error = cloud.provider.result(ref).error
    assert error is not None
    assert "Row 3 is longer" in error.message


def test_every_documented_status_has_a_state() -> None:
    """The specification's enum, and the word that only the SDK's own list has."""
    from together.lib.types.fine_tuning import COMPLETED_STATUSES, FinetuneJobStatus

    spec = json.loads((Path(__file__).parents[2] / "specs" / "together-fine-tuning.json").read_text())
    words = {*spec["components"]["schemas"]["FinetuneJobStatus"]["enum"], *(each.value for each in FinetuneJobStatus)}
    ends = {each.value for each in COMPLETED_STATUSES}
    for word in words:
        state = dialect.state_of(word)
        assert state is not None
        assert state.done == (word in ends), word


def test_metrics_that_are_no_numbers_are_not_zero() -> None:
    points = [{"train/global_step": 1, "train/loss": math.nan, "eval/approx. KL/chosen": 0.2}]
    assert dialect.history_of(points) == [{"step": 1, "train/loss": None, "provider/eval/approx. KL/chosen": 0.2}]


def test_an_estimate_is_asked_for_once_the_files_are_there(cloud: Cloud) -> None:
    plan = cloud.prepared().plan
    before = cloud.provider.quote(plan)
    assert before is not None
    assert before.cost.basis == "price list 2025"
    cloud.by_hand()
    service: Any = cloud.box.services["together"]
    file = service.jobs.all()[0].request["training_file"]
    after = cloud.provider.quote(plan.model_copy(update={"filled": {**plan.filled, "training_file": file}}))
    assert after is not None
    assert after.cost.basis == "provider quote"


def test_its_own_estimate_is_held_against_the_cap_before_the_create(cloud: Cloud) -> None:
    """The list says 0.0012 USD or so, which fits; what the service says once it has the file does not."""
    service: Any = cloud.box.services["together"]
    service._price = lambda given: 7.5
    with pytest.raises(errors.CapExceeded, match=r"estimates 7\.5 USD, and the cap leaves 5 USD") as caught:
        anydpo.submit(a_job(), "together", max_cost_usd=5)
    assert (caught.value.exit_code, caught.value.provider) == (7, "together")
    assert (len(cloud.sent("upload")), len(cloud.sent("estimate")), cloud.sent()) == (1, 1, [])
    (run,) = anydpo.runs()
    assert run.state is State.FAILED
    assert run.result().error is not None
    run = anydpo.submit(a_job(), "together", max_cost_usd=8)  # nothing ran: the same run, and the file is there
    assert (run.created, len(cloud.sent()), len(cloud.box.requests("storage", "put"))) == (True, 1, 1)


def capped(prepared: Prepared, usd: float) -> Prepared:
    return replace(prepared, plan=prepared.plan.model_copy(update={"most_usd": usd}))


def test_each_stage_is_estimated_and_the_others_count_by_the_list(cloud: Cloud) -> None:
    service: Any = cloud.box.services["together"]
    service._price = lambda given: 4.0
    prepared = cloud.prepared(sft=anydpo.SFT(data="chosen"))
    listed = request.quote(prepared.plan)
    assert listed is not None
    run = cloud.dispatch.submit(capped(prepared, 4 + listed.cost.amount)).run
    for _ in cloud.dispatch.watch(run):
        pass
    assert [body["training_method"]["method"] for body in cloud.bodies()] == ["sft", "dpo"]
    estimates = [entry["body"] for entry in cloud.sent("estimate")]
    assert [asked["training_method"]["method"] for asked in estimates] == ["sft", "dpo"]
    assert [name for asked in estimates for name in ("model", "from_checkpoint") if asked.get(name)] == [
        "model",
        "from_checkpoint",
    ]


def test_without_a_cap_nobody_asks_for_an_estimate_and_without_an_estimate_the_list_holds(cloud: Cloud) -> None:
    cloud.submit()
    assert cloud.sent("estimate") == []
    service: Any = cloud.box.services["together"]
    service._unready = lambda file, word: f"{word}_file_not_validated"
    cloud.dispatch.submit(capped(cloud.prepared(seed=5), 1.0))
    assert len(cloud.sent("estimate")) == 1
    assert cloud.made() == 2


def test_a_model_of_unknown_size_has_no_price() -> None:
    assert request.quote(planned(model="moonshotai/Kimi-K2-Instruct", batch_size=1)) is None
    assert request.quote(planned(model="meta-llama/Llama-3.3-70B-Instruct-Reference")) is None


def test_weights_arrive_whole_and_a_wrong_byte_is_found(cloud: Cloud, tmp_path: Path) -> None:
    ref = cloud.by_hand()
    with pytest.raises(errors.RunFailed):
        cloud.provider.fetch(ref, tmp_path / "early")
    cloud.ended(ref)
    cloud.box.break_({"fault": "wrong_hash", "times": 1})
    with pytest.raises(errors.DataInvalid, match="hash"):
        cloud.provider.fetch(ref, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (artifact,) = cloud.provider.fetch(ref, tmp_path / "out")
    assert (tmp_path / "out" / "config.json").is_file()
    assert artifact.path == str(tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_the_storage_is_never_shown_the_key(cloud: Cloud, tmp_path: Path) -> None:
    """The emulated store refuses a request that brings an authorisation beside the signature."""
    ref = cloud.by_hand()
    cloud.ended(ref)
    cloud.provider.fetch(ref, tmp_path / "out")
    assert [entry["status"] for entry in cloud.box.requests("storage")] == [200, 200]


def test_an_adapter_is_fetched_alone_where_one_was_trained(cloud: Cloud, tmp_path: Path) -> None:
    ref = cloud.by_hand(adapter=anydpo.LoRA(r=8))
    with pytest.raises(errors.RunFailed, match="no model yet"):
        cloud.provider.fetch_adapter(ref, tmp_path / "early")
    cloud.ended(ref)
    (artifact,) = cloud.provider.fetch_adapter(ref, tmp_path / "adapter")
    assert artifact.kind == "adapter"
    assert (tmp_path / "adapter" / "adapter_config.json").is_file()
    whole = cloud.by_hand(key="anydpo-" + "1" * 24, adapter="full")
    cloud.ended(whole)
    with pytest.raises(errors.RunFailed, match="no adapter"):
        cloud.provider.fetch_adapter(whole, tmp_path / "none")
