"""What the emulator takes as a create body, and the limits and prices it answers with.

Sources: together 3.1.1 (lib/types/fine_tuning.py) and its limits type; Together's OpenAPI document of 2026-04-28. The
limits' numbers are the sandbox's own, of the size that Together's models have; prices are of its list of 2025.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anydpo.sandbox.wire import Refusal

FIELDS = frozenset(
    (
        "training_file validation_file packing model n_epochs learning_rate lr_scheduler warmup_ratio max_grad_norm "
        "weight_decay n_checkpoints n_evals max_seq_length batch_size gradient_accumulation_steps suffix wandb_key "
        "wandb_api_key wandb_base_url wandb_project_name wandb_name wandb_entity random_seed early_stopping_enabled "
        "early_stopping_patience early_stopping_min_delta early_stopping_warmup_evals training_type training_method "
        "from_checkpoint multimodal_params from_hf_model hf_model_revision hf_api_token hf_output_repo_name "
        "train_on_inputs"
    ).split()
)
DPO_FIELDS = frozenset(
    "method dpo_beta dpo_normalize_logratios_by_length dpo_reference_free rpo_alpha simpo_gamma".split()
)
SFT_FIELDS = frozenset({"method", "train_on_inputs"})

MODELS = {  # name → (largest DPO batch, tokens of a DPO example, billions of parameters)
    "Qwen/Qwen3-8B": (16, 8192, 8),
    "Qwen/Qwen3-0.6B": (32, 16384, 1),
    "Qwen/Qwen2.5-7B-Instruct": (16, 8192, 7),
    "meta-llama/Meta-Llama-3.1-8B-Instruct-Reference": (16, 8192, 8),
    "meta-llama/Llama-3.3-70B-Instruct-Reference": (8, 8192, 70),
    "openai/gpt-oss-20b": (8, 8192, 20),
    "google/gemma-3-4b-it": (16, 8192, 4),
}
PRICES = {("dpo", "Lora"): 1.20, ("dpo", "Full"): 1.35, ("sft", "Lora"): 0.48, ("sft", "Full"): 0.54}
CREDIT = 100.0
SECRETS = frozenset({"wandb_key", "wandb_api_key", "hf_api_token"})
OWN_RATE = 1e-5  # the service's default is the stand-in model's own rate
DEFAULTS = {
    "n_epochs": 1,
    "n_checkpoints": 1,
    "n_evals": 0,
    "batch_size": "max",
    "learning_rate": OWN_RATE,
    "lr_scheduler": {"lr_scheduler_type": "cosine", "lr_scheduler_args": {"min_lr_ratio": 0.0, "num_cycles": 0.5}},
    "warmup_ratio": 0.0,
    "max_grad_norm": 1.0,
    "weight_decay": 0.0,
    "random_seed": 42,
    "packing": True,
}


def limits(model: str) -> dict[str, Any]:
    """Return the limits of a model; raises the bare 404 that Together answers for one it does not know."""
    if model not in MODELS:
        said = f"Model {model} is not supported for fine-tuning"
        raise Refusal(404, said, body={"message": said})
    batch, length, _ = MODELS[model]
    sizes = {"min_batch_size": 1, "max_batch_size": 2 * batch, "max_batch_size_dpo": batch}
    modules = ["k_proj", "o_proj", "q_proj", "v_proj", "gate_proj", "up_proj", "down_proj"]
    return {
        "model_name": model,
        "lora_training": {"default_rank": 64, "max_rank": 64, "target_modules": modules, **sizes},
        "full_training": sizes,
        "default_gradient_accumulation_steps": 1,
        "max_num_epochs": 20,
        "max_num_evals": 100,
        "max_num_checkpoints": 20,
        "min_learning_rate": 1e-8,
        "max_learning_rate": 0.01,
        "max_seq_length_dpo": length,
        "max_seq_length_sft": 2 * length,
        "min_max_seq_length": 128,
        "merge_output_lora": True,
        "supports_full_training": True,
        "supports_reasoning": False,
        "supports_tools": True,
        "supports_vision": False,
    }


def checked(given: dict[str, Any], known: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a create body that is allowed for a model of these limits; raises a 400 or 422 `Refusal`."""
    if not given.get("training_file"):
        raise Refusal(400, "training_file is required", param="training_file")
    if bool(given.get("model")) == bool(given.get("from_checkpoint")):
        raise Refusal(400, "exactly one of model and from_checkpoint is required", param="model")
    if unknown := sorted(set(given) - FIELDS):
        raise Refusal(422, f"unknown field {unknown[0]}", param=unknown[0])
    method = given.get("training_method") or {"method": "sft"}
    if method.get("method") not in {"dpo", "sft"}:
        raise Refusal(400, "training_method.method must be sft or dpo", param="training_method")
    allowed = DPO_FIELDS if method["method"] == "dpo" else SFT_FIELDS
    if unknown := sorted(set(method) - allowed):
        raise Refusal(422, f"unknown field training_method.{unknown[0]}", param="training_method")
    if len(given.get("suffix") or "") > 40:
        raise Refusal(400, "suffix may have at most 40 characters", param="suffix")
    if known is not None:
        _check_numbers(given, method["method"], known)
    if given.get("early_stopping_enabled"):
        least = (given.get("early_stopping_patience") or 2) + (given.get("early_stopping_warmup_evals") or 1) + 1
        if not given.get("validation_file") or (given.get("n_evals") or 0) < least:
            raise Refusal(400, f"early stopping needs validation_file and n_evals of at least {least}", param="n_evals")
    return given


def _check_numbers(given: Mapping[str, Any], method: str, known: Mapping[str, Any]) -> None:
    kind = "full_training" if (given.get("training_type") or {}).get("type") == "Full" else "lora_training"
    sizes = known[kind]
    batch = given.get("batch_size", "max")
    most = sizes["max_batch_size_dpo" if method == "dpo" else "max_batch_size"]
    ranges = {
        "batch_size": (sizes["min_batch_size"], most, None if batch == "max" else batch),
        "n_epochs": (1, known["max_num_epochs"], given.get("n_epochs")),
        "n_evals": (0, known["max_num_evals"], given.get("n_evals")),
        "n_checkpoints": (0, known["max_num_checkpoints"], given.get("n_checkpoints")),
        "learning_rate": (known["min_learning_rate"], known["max_learning_rate"], given.get("learning_rate")),
        "max_seq_length": (known["min_max_seq_length"], known[f"max_seq_length_{method}"], given.get("max_seq_length")),
        "warmup_ratio": (0, 1, given.get("warmup_ratio")),
    }
    for name, (low, high, value) in ranges.items():
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise Refusal(400, f"{name} must be between {low} and {high}, got {value}", param=name)
    rank = (given.get("training_type") or {}).get("lora_r")
    if rank is not None and not 1 <= rank <= known["lora_training"]["max_rank"]:
        raise Refusal(400, f"lora_r must be between 1 and {known['lora_training']['max_rank']}", param="training_type")


def price(method: str, kind: str, tokens: int, billions: int) -> float:
    """Return dollars: the list's rate up to 16 billion parameters, in proportion above."""
    return round(tokens / 1e6 * PRICES[method, kind] * max(1.0, billions / 16), 4)


def trainer_method(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the trainer's method for Together's block; betas of 0 or less are the default there too."""
    if given["method"] == "sft":
        return {}
    beta = given.get("dpo_beta")
    made: dict[str, Any] = {"beta": beta if beta is not None and beta > 0 else 0.1, "loss_type": ["sigmoid"]}
    if gamma := given.get("simpo_gamma"):
        return {**made, "loss_type": ["simpo"], "simpo_gamma": gamma}
    if given.get("dpo_normalize_logratios_by_length"):
        made["loss_type"] = ["sigmoid_norm"]
    if given.get("dpo_reference_free"):
        made["reference_free"] = True
    if alpha := given.get("rpo_alpha"):
        made |= {"loss_type": [*made["loss_type"], "sft"], "loss_weights": [1.0, alpha]}
    return made


def trainer_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the trainer's fields for what Together's body says beside the method."""
    return {
        "lr_scheduler_type": given["lr_scheduler"]["lr_scheduler_type"],
        "warmup_ratio": given["warmup_ratio"],
        "weight_decay": given["weight_decay"],
        "max_grad_norm": given["max_grad_norm"],
    }


def trainer_adapter(kind: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the trainer's adapter, None for full training; the stand-in model takes a rank of at most 16."""
    if kind["type"] != "Lora":
        return None
    rank = min(16, kind["lora_r"])
    alpha = kind["lora_alpha"] * rank / kind["lora_r"]
    return {"r": rank, "lora_alpha": alpha, "lora_dropout": kind.get("lora_dropout") or 0.0}
