"""What configurations share that are read by transformers' Trainer: TRL's, LLaMA-Factory's and, renamed, axolotl's.

Names and defaults: transformers, `TrainingArguments`.
"""

from __future__ import annotations

import math
import re
from typing import Any

from anydpo.translate.reading import Theirs
from anydpo_trainer.config import CHOICES

SCHEDULES = {
    **{name: name for name in CHOICES["lr_scheduler_type"]},
    "constant_with_warmup": "constant",
}
ADAMW = re.compile(r"(paged_)?adamw(_.*)?")
# How it logs, saves, loads and spreads over machines
ELSEWHERE = re.compile(
    r"(output_dir|overwrite_.*|logging_.*|log_.*|report_to|run_name|save_.*|hub_.*|push_to_.*|dataloader_.*|ddp_.*"
    r"|deepspeed|fsdp.*|accelerator_config|parallelism_config|local_rank|device|device_map|no_cuda|use_cpu|tf32"
    r"|torch_compile.*|eval_.*|per_device_eval_batch_size|do_(train|eval|predict)|prediction_loss_only|disable_tqdm"
    r"|project|trackio_.*|wandb_.*|use_wandb|mlflow_.*|comet_.*|swanlab_.*|use_swanlab|ray_.*|num_(proc|workers)"
    r"|dataset_num_proc|preprocessing_.*|overwrite_cache|plot_loss|include_.*|skip_memory_metrics|remove_unused_columns"
    r"|attn_implementation|flash_attn|flash_attention|sdp_attention|xformers_attention|use_liger_kernel|liger_.*"
    r"|(activation|gradient)_checkpointing_kwargs|activation_offloading|padding_free|pad_to_multiple_of|pad_token"
    r"|data_seed|debug|torch_empty_cache_steps|batch_eval_metrics|label_names|length|resume_from_checkpoint|ignore_data_skip|average_tokens_across_devices|env"
    r"|full_determinism|restore_callback_.*|load_best_model_at_end|greater_is_better|metric_for_best_model"
    r"|trust_remote_code|model_revision|dataset_prepared_path|dataset_processes|strict|special_tokens|tokenizer_type"
    r"|model_type|group_by_length|length_column_name|train_sampling_strategy|auto_find_batch_size|bf16_full_eval"
    r"|fp16_full_eval|low_cpu_.*|profiler_steps|enable_jit_checkpoint|use_cache|gc_steps|tokenized_path|cache_dir)"
)
USUAL = {
    "optim": "adamw_torch_fused",
    "lr_scheduler_kwargs": {},
    "disable_dropout": True,
    "label_pad_token_id": -100,
    "world_size": 1,
    "precision": None,
}


def read_batch(theirs: Theirs, each: str, default: int, accumulation: str = "gradient_accumulation_steps") -> None:
    """Set pairs a step and a pass from what one device takes at a time; how many devices there are nobody says."""
    given = theirs.take(each)
    micro, steps = int(given or default), int(theirs.take(accumulation) or 1)
    beside = f"{micro} x {steps} on one GPU" + ("" if given else f" ({each} is {default} where it is not said)")
    theirs.put("batch_size", micro * steps, beside)
    theirs.put("micro_batch_size", micro)
    theirs.changed(each, micro, "batch_size is counted over all devices: multiply it by their number, if more than one")


def read_length(theirs: Theirs, name: str, default: int | None) -> None:
    """Set the longest pair, which is cut there and would be left out here."""
    theirs.pass_on(name, "max_length", default)
    theirs.put("options.local.truncation", "keep_start", "longer pairs are cut there, and skipped here unless told so")
    for other in ("max_prompt_length", "max_completion_length", "max_prompt_len"):
        if (value := theirs.take(other)) is not None:
            theirs.lost(other, value, "only a pair as a whole has a longest length here: max_length")


def read_epochs(theirs: Theirs, name: str, default: float) -> None:
    """Set passes over the data, which are whole here."""
    value = theirs.take(name)
    epochs = default if value is None else float(value)
    whole = max(1, math.ceil(epochs))
    theirs.put("epochs", whole, f"{theirs.tool}'s default" if value is None else None)
    if whole != epochs:
        theirs.changed(name, value, f"epochs are whole: {whole}; max_steps ends earlier")
    if (steps := theirs.take("max_steps")) is not None and int(steps) > 0:
        theirs.put("max_steps", int(steps))


def read_schedule(theirs: Theirs, name: str, default: str) -> None:
    """Set the learning rate's course."""
    value = str(theirs.take(name) or default)
    if value in SCHEDULES:
        theirs.put("lr_scheduler_type", SCHEDULES[value])
    else:
        theirs.changed(name, value, f"there is {', '.join(CHOICES['lr_scheduler_type'])}: linear is taken")
        theirs.put("lr_scheduler_type", "linear")
    kwargs = theirs.take("lr_scheduler_kwargs")
    if kwargs:
        theirs.lost("lr_scheduler_kwargs", kwargs, "the schedules have no options here")
    ratio, steps = theirs.take("warmup_ratio"), theirs.take("warmup_steps")
    if ratio is None and isinstance(steps, float) and 0 < steps < 1:  # newer ones take a share here
        ratio, steps = steps, None
    if steps:
        total = theirs.job.get("max_steps")
        if total:
            ratio = round(int(steps) / total, 6)
        else:
            said = "how many steps there are is not known here: warmup_ratio = this / all steps"
            theirs.yours("warmup_ratio", "warmup_steps", steps, said)
    theirs.put("warmup_ratio", 0.0 if value == "constant" else float(ratio or 0.0))


def read_rest_of_training(theirs: Theirs, rate: float) -> None:
    """Set what has one meaning everywhere: the optimiser's numbers, the seed, how often it measures and saves."""
    theirs.pass_on("learning_rate", "learning_rate", rate)
    theirs.pass_on("weight_decay", "weight_decay")
    theirs.pass_on("max_grad_norm", "max_grad_norm")
    theirs.pass_on("seed", "seed", 42)
    theirs.pass_on("early_stopping_patience", "early_stopping_patience")
    for name in ("adam_beta1", "adam_beta2", "adam_epsilon"):
        value = theirs.take(name)
        if value is not None and value != {"adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8}[name]:
            theirs.put(f"options.local.{name}", value)
    optimiser = theirs.take("optim", "optimizer")
    if optimiser is not None and str(optimiser) == "sgd":
        theirs.put("options.local.optim", "sgd")
    elif optimiser is not None and not ADAMW.fullmatch(str(optimiser)):
        theirs.changed("optim", optimiser, "AdamW is taken")
    elif optimiser is not None and re.search(r"8bit|4bit|paged", str(optimiser)):
        theirs.changed("optim", optimiser, "AdamW with whole moments is taken: the same steps, more memory")
    if theirs.take("activation_checkpointing", "gradient_checkpointing"):
        theirs.put("gradient_checkpointing", True)
    for name in ("bf16", "fp16", "bfloat16", "float16", "pure_bf16", "dtype", "torch_dtype", "model_dtype"):
        value = theirs.take(name)
        if value not in (None, False, "auto"):
            theirs.changed(name, value, "dtype is auto: bfloat16 on a GPU that has it, else float32")


def read_rhythm(theirs: Theirs, held_out: bool) -> None:
    """Set how often held-out pairs are measured and checkpoints kept, where that is told in steps."""
    for what, path, wanted in (("eval", "eval_steps", held_out), ("save", "save_steps", True)):
        how, steps = theirs.take(f"{what}_strategy", f"{what}uation_strategy"), theirs.take(f"{what}_steps")
        by_steps = how == "steps" or (how is None and steps is not None)
        if steps is not None and by_steps and wanted and float(steps) >= 1:
            theirs.put(path, int(steps))
        elif how == "epoch" or (steps is not None and by_steps and wanted):
            theirs.changed(f"{what}_strategy", how or steps, f"{path} counts steps; once at the end is taken")


def lora(
    theirs: Theirs, rank: int, alpha: float | None, dropout: float, targets: Any, names: tuple[str, ...]
) -> dict[str, Any]:
    """Return a LoRA adapter from four settings by their names, with the tool's own defaults."""
    r, a, d, modules = (theirs.take(name) for name in names)
    r = rank if r is None else int(r)
    given = alpha if a is None else a
    return {
        "r": r,
        "lora_alpha": 2 * r if given is None else given,
        "lora_dropout": dropout if d is None else d,
        "target_modules": _modules(targets if modules is None else modules),
    }


def _modules(given: Any) -> Any:
    if isinstance(given, str):
        names = [name.strip() for name in given.split(",") if name.strip()]
        return "all-linear" if names in (["all"], ["all-linear"], ["all_linear"]) else names
    return list(given) if given else "all-linear"
