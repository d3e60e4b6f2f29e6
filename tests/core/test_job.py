"""The job: one model for Python and TOML, whose errors name the field and the nearest right one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import ValidationError

from anydpo import DPO, SFT, LoRA, PreferenceJob
from anydpo.errors import JobInvalid
from anydpo_trainer.config import LOSSES


def problems_of(**fields: Any) -> dict[str, str]:
    with pytest.raises(JobInvalid) as found:
        PreferenceJob(**{"model": "tiny", "data": "x.jsonl", **fields})
    return {problem.field: f"{problem.message} {problem.hint or ''}".strip() for problem in found.value.problems}


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("num_train_epochs", "epochs"),
        ("n_epochs", "epochs"),
        ("per_device_train_batch_size", "micro_batch_size"),
        ("model_name_or_path", "model"),
        ("dpo_beta", "method.beta"),
        ("beta", "method.beta"),
        ("loss_type", "method.loss_type"),
        ("rank", "adapter.r"),
        ("lora_alpha", "adapter.lora_alpha"),
        ("max_seq_length", "max_length"),
        ("lr", "learning_rate"),
        ("batchsize", "batch_size"),
        ("epoch", "epochs"),
        ("random_seed", "seed"),
    ],
)
def test_an_unknown_field_gets_the_nearest_name(name: str, ours: str) -> None:
    assert f"did you mean {ours}?" in problems_of(**{name: 1})[name]


@pytest.mark.parametrize(
    ("fields", "field", "said"),
    [
        ({"method": {"beta": 0}}, "method.beta", "expected above 0"),
        ({"method": {"beta": "strong"}}, "method.beta", "is 'strong'"),
        ({"method": {"loss_type": "sigmod"}}, "method.loss_type", "did you mean 'sigmoid'?"),
        ({"method": {"los_type": "ipo"}}, "method.los_type", "did you mean loss_type?"),
        ({"method": {"loss_type": "exo_pair"}}, "method.label_smoothing", "try 1e-3"),
        ({"adapter": {"r": 0}}, "adapter.r", "at least 1"),
        ({"adapter": {"rank": 8}}, "adapter.rank", "did you mean r?"),
        ({"adapter": "Lora"}, "adapter", "'auto' or 'full'"),
        ({"epochs": 0}, "epochs", "at least 1"),
        ({"learning_rate": "fast"}, "learning_rate", "is 'fast'"),
        ({"validation": 1.5}, "validation", "share between 0 and 1"),
        ({"validation": True}, "validation", "bool"),
        ({"data": 3}, "data", "expected a path"),
        ({"data": {"pth": "x"}}, "data.pth", "did you mean path?"),
        ({"sft": {"epochs": 0}}, "sft.epochs", "at least 1"),
        ({"lr_scheduler_type": "cosin"}, "lr_scheduler_type", "did you mean 'cosine'?"),
        ({"eval_steps": 5}, "eval_steps", "no held-out pairs"),
        ({"micro_batch_size": 64}, "micro_batch_size", "above batch_size"),
    ],
)
def test_a_wrong_value_is_named_with_what_to_do(fields: dict[str, Any], field: str, said: str) -> None:
    found = problems_of(**fields)
    assert field in found
    assert said in found[field]


def test_several_problems_come_at_once() -> None:
    found = problems_of(epochs=0, method={"beta": -1}, batchsize=3)
    assert {"method.beta", "batchsize"} <= found.keys()


def test_errors_are_ours_and_value_errors() -> None:
    with pytest.raises(JobInvalid) as found:
        DPO(beta=-1)
    assert isinstance(found.value, ValueError)
    assert found.value.exit_code == 2
    assert found.value.to_dict()["code"] == "job_invalid"


def test_the_job_cannot_change_but_be_replaced() -> None:
    job = PreferenceJob(model="tiny", data="x.jsonl", method=DPO(beta=0.3))
    with pytest.raises(ValidationError):
        job.epochs = 3
    other = job.replace(epochs=3)
    assert (other.epochs, other.method.beta, job.epochs) == (3, 0.3, 1)
    assert other.model_fields_set == {"model", "data", "method", "epochs"}


def test_toml_and_python_are_one_model(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text(
        """
        name = "support-tone"
        model = {openai = "gpt-4.1-mini-2025-04-14", default = "Qwen/Qwen3-8B"}
        data = [{path = "a.jsonl", weight = 2, max_pairs = 10}, "b.jsonl"]
        validation = 0.1
        learning_rate = "auto"
        adapter = {r = 8}
        [method]
        loss_type = ["sigmoid", "sft"]
        loss_weights = [1, 0.5]
        [sft]
        data = "chosen"
        [options.together]
        n_checkpoints = 2
        """
    )
    job = PreferenceJob.from_toml(path)
    same = PreferenceJob(
        name="support-tone",
        model={"openai": "gpt-4.1-mini-2025-04-14", "default": "Qwen/Qwen3-8B"},
        data=[{"path": str(tmp_path / "a.jsonl"), "weight": 2, "max_pairs": 10}, str(tmp_path / "b.jsonl")],
        validation=0.1,
        learning_rate="auto",
        adapter=LoRA(r=8),
        method=DPO(loss_type=("sigmoid", "sft"), loss_weights=(1, 0.5)),
        sft=SFT(data="chosen"),
        options={"together": {"n_checkpoints": 2}},
    )
    assert job == same
    assert PreferenceJob.from_toml(path, epochs=4).epochs == 4


@pytest.mark.parametrize("text", ["model = ", "\x00", "model = 'a'\nmodel = 'b'"])
def test_a_file_that_is_no_toml_says_where(tmp_path: Path, text: str) -> None:
    path = tmp_path / "job.toml"
    path.write_text(text)
    with pytest.raises(JobInvalid, match=r"job\.toml"):
        PreferenceJob.from_toml(path)
    with pytest.raises(JobInvalid, match="no such job file"):
        PreferenceJob.from_toml(tmp_path / "none.toml")


def test_a_place_takes_its_own_entry_then_the_default() -> None:
    job = PreferenceJob(model={"sagemaker/training": "a", "sagemaker": "b", "default": "c"}, data="x")
    assert [job.model_for(p) for p in ("sagemaker/training", "sagemaker/serverless", "local")] == ["a", "b", "c"]
    assert PreferenceJob(model={"openai": "a"}, data="x").model_for("local") is None


def test_every_loss_can_be_named() -> None:
    for name in LOSSES:
        smoothing = 0.1 if name == "exo_pair" else 0.0
        assert DPO(loss_type=name, label_smoothing=smoothing).method.loss_type == (name,)


def test_published_schemas_are_those_of_the_models() -> None:
    from anydpo import Result

    folder = Path(__file__).parents[2] / "src" / "anydpo" / "schemas"
    for model, name in ((PreferenceJob, "job"), (Result, "result")):
        published = json.loads((folder / f"{name}.schema.json").read_text())
        assert published == model.model_json_schema(mode="serialization" if name == "result" else "validation")
        jsonschema.Draft202012Validator.check_schema(published)


def test_the_schema_knows_the_ranges() -> None:
    schema = PreferenceJob.model_json_schema()
    jsonschema.validate({"model": "tiny", "data": "x", "method": {"beta": 0.1}}, schema)
    for wrong in ({"method": {"beta": 0}}, {"epochs": 0}, {"seeds": 1}, {"lr_scheduler_type": "steps"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"model": "tiny", "data": "x", **wrong}, schema)


def test_notebook_display_is_escaped() -> None:
    shown = PreferenceJob(model="<script>alert(1)</script>", data="x", name="a&b")._repr_html_()
    assert "<script>" not in shown
    assert "a&amp;b" in shown
