"""Configurations of other tools, as their documentation writes them: each setting is a field of ours, or told of."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from anydpo import PreferenceJob, cli
from anydpo.errors import Invalid
from anydpo.jobfile import job_text
from anydpo.translate import from_file, job_file

TRL = """
model_name_or_path: Qwen/Qwen3-0.6B
dataset_name: trl-lib/ultrafeedback_binarized
loss_type: [sigmoid, sft]
loss_weights: [1.0, 0.5]
beta: 0.05
learning_rate: 5e-7
num_train_epochs: 1
per_device_train_batch_size: 2
gradient_accumulation_steps: 8
gradient_checkpointing: true
max_length: 2048
eval_strategy: steps
eval_steps: 50
logging_steps: 25
output_dir: out
report_to: wandb
use_peft: true
lora_r: 32
lora_alpha: 16
neftune_noise_alpha: 5
"""
LLAMA_FACTORY = """
### model
model_name_or_path: meta-llama/Meta-Llama-3-8B-Instruct
stage: dpo
do_train: true
finetuning_type: lora
lora_rank: 8
lora_target: q_proj,v_proj
pref_beta: 0.2
pref_loss: simpo
simpo_gamma: 0.7
dataset: shop
template: llama3
cutoff_len: 2048
max_samples: 1000
val_size: 0.1
output_dir: saves/out
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 5.0e-6
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
use_galore: true
"""
AXOLOTL = """
base_model: mistralai/Mistral-7B-v0.1
load_in_4bit: true
rl: ipo
rl_beta: 0.3
datasets:
  - path: Intel/orca_dpo_pairs
    split: train
    type: chatml.intel
  - path: ./more.jsonl
    type: chatml.intel
val_set_size: 0.05
adapter: qlora
sequence_len: 1024
lora_r: 64
lora_alpha: 32
lora_dropout: 0.05
lora_target_linear: true
gradient_accumulation_steps: 4
micro_batch_size: 2
num_epochs: 2
optimizer: paged_adamw_8bit
lr_scheduler: cosine
learning_rate: 0.000005
warmup_steps: 10
flash_attention: true
saves_per_epoch: 0
"""


def written(tmp_path: Path, text: str, name: str = "config.yaml") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def job_of(made: Any) -> PreferenceJob:
    """Return the job that the written file reads back as."""
    return PreferenceJob(**tomllib.loads(job_file(made, "config")))


def told(made: Any, kind: str) -> set[str]:
    return {remark.field for remark in made.of(kind)}


def test_trl(tmp_path: Path) -> None:
    made = from_file(written(tmp_path, TRL))
    job = job_of(made)
    assert made.tool == "TRL"
    assert (job.model, job.epochs, job.learning_rate) == ("Qwen/Qwen3-0.6B", 1, 5e-7)
    assert (job.method.loss_type, job.method.loss_weights, job.method.beta) == (("sigmoid", "sft"), (1.0, 0.5), 0.05)
    assert (job.batch_size, job.micro_batch_size, job.max_length) == (16, 2, 2048)
    assert (job.warmup_ratio, job.lr_scheduler_type, job.seed) == (0.0, "linear", 42)  # transformers' own
    assert (job.data.path, job.validation.path, job.validation.split) == (
        "hf://trl-lib/ultrafeedback_binarized",
        "hf://trl-lib/ultrafeedback_binarized",
        "test",
    )
    assert (job.eval_steps, job.gradient_checkpointing) == (50, True)
    assert job.adapter.model_dump() == {  # type: ignore[union-attr]
        "r": 32,
        "lora_alpha": 16,
        "lora_dropout": 0.05,
        "target_modules": "all-linear",
    }
    assert job.options == {"local": {"truncation": "keep_start"}}
    assert told(made, "lost") == {"neftune_noise_alpha"}
    assert told(made, "elsewhere") == {"logging_steps", "output_dir", "report_to"}
    assert told(made, "changed") == {"per_device_train_batch_size", "lora_target_modules"}


def test_a_saved_dpo_config_of_trl_loses_nothing(tmp_path: Path) -> None:
    """What TRL 1.16 writes for `DPOConfig(output_dir="out").to_json_string()`, with three settings changed."""
    saved = json.loads((Path(__file__).parent / "dpo_config_trl_1_16.json").read_text())
    path = written(tmp_path, json.dumps({**saved, "beta": 0.3, "loss_type": ["apo_zero"], "seed": 7}), "args.json")
    made = from_file(path)
    job = job_of(made)
    assert (job.method.loss_type, job.method.beta, job.seed) == ("apo_zero", 0.3, 7)
    assert (job.learning_rate, job.epochs, job.batch_size, job.max_length) == (
        saved["learning_rate"],
        saved["num_train_epochs"],
        saved["per_device_train_batch_size"] * saved["gradient_accumulation_steps"],
        saved["max_length"],
    )
    assert not told(made, "lost")
    assert told(made, "yours") == {"model", "data"}  # a DPOConfig names neither


def test_llama_factory(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset_info.json").write_text('{"shop": {"file_name": "shop.json", "ranking": true}}')
    made = from_file(written(tmp_path, LLAMA_FACTORY))
    job = job_of(made)
    assert made.tool == "LLaMA-Factory"
    assert (job.method.loss_type, job.method.beta, job.method.simpo_gamma) == ("simpo", 0.2, 0.7)
    assert (job.epochs, job.batch_size, job.max_length, job.learning_rate) == (3, 8, 2048, 5e-6)
    assert (job.lr_scheduler_type, job.warmup_ratio) == ("cosine", 0.1)
    assert (job.data.path, job.data.max_pairs) == (str(tmp_path / "data" / "shop.json"), 1000)
    assert job.validation == 0.1
    assert job.adapter.model_dump() == {  # type: ignore[union-attr]
        "r": 8,
        "lora_alpha": 16,  # twice the rank where nothing is said
        "lora_dropout": 0.0,
        "target_modules": ("q_proj", "v_proj"),
    }
    assert told(made, "lost") == {"use_galore"}
    assert {"template", "bf16"} <= told(made, "changed")


def test_axolotl(tmp_path: Path) -> None:
    made = from_file(written(tmp_path, AXOLOTL, "axolotl.yml"))
    job = job_of(made)
    assert made.tool == "axolotl"
    assert (job.method.loss_type, job.method.beta) == ("ipo", 0.3)
    assert [source.path for source in job.data] == ["hf://Intel/orca_dpo_pairs", "./more.jsonl"]
    assert (job.batch_size, job.micro_batch_size, job.epochs, job.max_length) == (8, 2, 2, 1024)
    assert (job.load_in_4bit, job.validation, job.learning_rate) == (True, 0.05, 5e-6)
    assert job.adapter.model_dump() == {  # type: ignore[union-attr]
        "r": 64,
        "lora_alpha": 32,
        "lora_dropout": 0.05,
        "target_modules": "all-linear",
    }
    assert told(made, "yours") == {"warmup_steps"}
    assert {"optim", "datasets.type"} <= told(made, "changed")
    assert not told(made, "lost")


def test_openais_create_body(tmp_path: Path) -> None:
    body = {
        "model": "gpt-4.1-mini-2025-04-14",
        "training_file": "file-abc",
        "validation_file": "file-def",
        "suffix": "tone",
        "seed": 7,
        "metadata": {"team": "shop"},
        "integrations": [{"type": "wandb", "wandb": {"project": "tone"}}],
        "method": {
            "type": "dpo",
            "dpo": {
                "hyperparameters": {
                    "beta": 0.2,
                    "n_epochs": 2,
                    "batch_size": "auto",
                    "learning_rate_multiplier": 1.5,
                }
            },
        },
    }
    made = from_file(written(tmp_path, json.dumps(body), "body.json"))
    job = job_of(made)
    assert made.tool == "a create body of openai"
    assert (job.model, job.method.beta, job.epochs, job.seed) == ("gpt-4.1-mini-2025-04-14", 0.2, 2, 7)
    assert "batch_size" not in job.model_fields_set  # auto: the service decides
    assert job.options["openai"] == {
        "learning_rate_multiplier": 1.5,
        "suffix": "tone",
        "metadata": {"team": "shop"},
    }
    assert told(made, "lost") == {"training_file", "validation_file", "integrations"}


def test_togethers_create_body(tmp_path: Path) -> None:
    body = {
        "training_file": "file-1",
        "model": "Qwen/Qwen3-8B",
        "n_epochs": 2,
        "learning_rate": 1e-5,
        "lr_scheduler": {"lr_scheduler_type": "cosine", "lr_scheduler_args": {"min_lr_ratio": 0.1}},
        "warmup_ratio": 0.05,
        "batch_size": "max",
        "n_checkpoints": 2,
        "training_type": {"type": "Lora", "lora_r": 8, "lora_alpha": 16, "lora_trainable_modules": "all-linear"},
        "training_method": {"method": "dpo", "dpo_beta": 0.3, "rpo_alpha": 0.5},
    }
    made = from_file(written(tmp_path, json.dumps(body), "body.json"))
    job = job_of(made)
    assert made.tool == "a create body of together"
    assert (job.method.loss_type, job.method.loss_weights, job.method.beta) == (("sigmoid", "sft"), (1.0, 0.5), 0.3)
    assert (job.model, job.epochs, job.learning_rate, job.lr_scheduler_type) == ("Qwen/Qwen3-8B", 2, 1e-5, "cosine")
    assert job.adapter.r == 8  # type: ignore[union-attr]
    assert job.options["together"]["n_checkpoints"] == 2
    assert "training_file" in told(made, "lost")


def test_sagemakers_create_body_of_a_script_with_trls_settings(tmp_path: Path) -> None:
    body = {
        "TrainingJobName": "tone-1",
        "RoleArn": "arn:aws:iam::123456789012:role/r",
        "AlgorithmSpecification": {"TrainingImage": "some/image:1", "TrainingInputMode": "File"},
        "HyperParameters": {
            "model_name_or_path": "Qwen/Qwen3-0.6B",
            "beta": "0.2",
            "learning_rate": "5e-7",
            "num_train_epochs": "2",
            "sagemaker_program": "dpo.py",
        },
        "InputDataConfig": [
            {"ChannelName": "train", "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://b/p/"}}}
        ],
        "OutputDataConfig": {"S3OutputPath": "s3://b/out"},
        "ResourceConfig": {"InstanceType": "ml.g5.2xlarge", "InstanceCount": 1, "VolumeSizeInGB": 100},
        "StoppingCondition": {"MaxRuntimeInSeconds": 3600},
        "Environment": {"A": "b"},
    }
    made = from_file(written(tmp_path, json.dumps(body), "body.json"))
    job = job_of(made)
    assert made.tool == "a create body of sagemaker"
    assert (job.model, job.method.beta, job.learning_rate, job.epochs) == ("Qwen/Qwen3-0.6B", 0.2, 5e-7, 2)
    assert job.options["sagemaker"] == {
        "role": "arn:aws:iam::123456789012:role/r",
        "max_runtime_seconds": 3600,
        "instance_type": "ml.g5.2xlarge",
        "instance_count": 1,
        "volume_size_gb": 100,
        "image_uri": "some/image:1",
    }
    assert {"InputDataConfig.train", "Environment"} <= told(made, "lost")


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        ("stage: sft\nmodel_name_or_path: m\n", "a.yaml", "trains no pairs"),
        ("base_model: m\nrl: kto\n", "a.yaml", "trains no pairs"),
        ("base_model: m\ndatasets: []\n", "a.yaml", "trains no pairs"),
        ("colour: red\n", "a.yaml", "no configuration that is known"),
        ("- a\n", "a.yaml", "no settings"),
        ("base_model: m\nrl: dpo\ndatasets: some\n", "a.yaml", "not of the kind"),
        ("model_name_or_path: m\nnum_train_epochs: many\n", "a.yaml", "not of the kind"),
        ("{", "a.json", "a.json"),
        ("a: [", "a.yaml", "a.yaml"),
        ('model = "tiny"\n', "job.toml", "job file already"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, name: str, said: str) -> None:
    with pytest.raises(Invalid, match=said):
        from_file(written(tmp_path, text, name))


def test_a_loss_that_is_not_here_is_told_and_never_dropped(tmp_path: Path) -> None:
    made = from_file(written(tmp_path, LLAMA_FACTORY.replace("pref_loss: simpo", "pref_loss: kto_pair")))
    assert "pref_loss" in told(made, "lost")
    made = from_file(written(tmp_path, TRL.replace("[sigmoid, sft]", "some_new_loss")))
    assert "method.loss_type" in told(made, "lost")
    assert job_of(made).method.loss_type == "sigmoid"


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = written(tmp_path, TRL)
    assert cli.run(["init", str(tmp_path / "shop"), "--from", str(config)]) == 0
    said = capsys.readouterr()
    assert "lost\tneftune_noise_alpha\t5\tno equivalent" in said.out
    assert "left out: " in said.out
    assert PreferenceJob.from_toml(tmp_path / "shop" / "job.toml").method.beta == 0.05
    assert cli.run(["init", str(tmp_path / "shop"), "--from", str(config)]) == 2  # it is there already
    assert cli.run(["init", str(tmp_path / "b"), "--from", str(config), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tool"] == "TRL"
    assert {remark["kind"] for remark in found["remarks"]} == {"lost", "changed", "elsewhere"}
    assert cli.run(["init", str(tmp_path / "c"), "--from", str(tmp_path / "none.yaml")]) == 2


@pytest.mark.parametrize(
    "value", ["a", 'say "hi" \\ \n\t', "ü€😀\x7f", 1, 1e-6, True, [1, "a"], {"a b": 1, "c": [True]}, -0.5, 1e300]
)
def test_a_job_file_reads_back_as_what_was_written(value: Any) -> None:
    text = job_text({"name": value, "options": {"some place": {"x": value}}, "method": {"beta": value}})
    assert tomllib.loads(text) == {"name": value, "options": {"some place": {"x": value}}, "method": {"beta": value}}
