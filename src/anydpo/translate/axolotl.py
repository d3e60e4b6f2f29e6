"""axolotl: the YAML of `axolotl train` with `rl: dpo`, `ipo`, `simpo` or `orpo`. Names and defaults: its `schemas`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anydpo.errors import Invalid
from anydpo.translate import common
from anydpo.translate.reading import Theirs, Translated
from anydpo.translate.trl import BUILDERS

LOSSES = {"dpo": "sigmoid", "True": "sigmoid", "ipo": "ipo", "simpo": "simpo", "orpo": "orpo"}
LORA = ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules")
ELSEWHERE = re.compile(
    common.ELSEWHERE.pattern
    + r"|hf_.*|plugins|sample_packing.*|eval_sample_packing|pad_to_sequence_len|shuffle_merged_datasets|train_on_inputs"
    r"|lora_fan_in_fan_out|loss_watchdog_.*|saves_per_epoch|evals_per_epoch|unsloth_.*|is_.*_derived_model|tokenizer_.*"
)


def fits(config: Mapping[str, Any]) -> bool:
    """Say whether this is a configuration of axolotl."""
    return "base_model" in config and bool({"rl", "sequence_len", "micro_batch_size", "datasets"} & config.keys())


def read(config: Mapping[str, Any], folder: Path) -> Translated:  # noqa: ARG001
    """Return the job of a configuration. Raises `Invalid` where it trains no pairs."""
    theirs = Theirs("axolotl", config)
    kind = str(theirs.take("rl"))
    if kind not in LOSSES:
        raise Invalid(f"rl: {kind} trains no pairs", hint="rl: dpo, ipo, simpo or orpo")
    theirs.pass_on("base_model", "model")
    held_out = _data(theirs)
    _method(theirs, kind)
    common.read_epochs(theirs, "num_epochs", 1)
    _batch(theirs)
    common.read_length(theirs, "sequence_len", 512)
    if not (theirs.has("warmup_ratio") or theirs.has("warmup_steps")):
        theirs.yours("warmup_ratio", "warmup_steps", None, "axolotl warms up for 3 % of the steps, at most 100")
    common.read_schedule(theirs, "lr_scheduler", "cosine")
    common.read_rest_of_training(theirs, 2e-4)
    common.read_rhythm(theirs, held_out)
    _adapter(theirs)
    if (template := theirs.take("chat_template")) not in (None, "tokenizer_default"):
        theirs.changed("chat_template", template, "the model's own chat template is used, which may differ")
    return theirs.done(ELSEWHERE, {**common.USUAL, "save_safetensors": True})


def _batch(theirs: Theirs) -> None:
    whole = theirs.take("batch_size")
    if whole is None:
        common.read_batch(theirs, "micro_batch_size", 1)
        return
    theirs.put("batch_size", int(whole))
    theirs.pass_on("micro_batch_size", "micro_batch_size")
    theirs.take("gradient_accumulation_steps")


def _method(theirs: Theirs, kind: str) -> None:
    theirs.put("method.loss_type", LOSSES[kind])
    inner = theirs.take("trl") or {}
    beta = inner.pop("beta", None) if isinstance(inner, dict) else None
    given = theirs.take("rl_beta", "dpo_beta")
    alpha = theirs.take("orpo_alpha")
    beta = next((value for value in (beta, given, alpha) if value is not None), 0.1)
    theirs.put("method.beta", float(beta))
    if inner:
        theirs.lost("trl", inner, "no equivalent")
    theirs.pass_on("dpo_label_smoothing", "method.label_smoothing")
    theirs.pass_on("dpo_use_weighting", "method.use_weighting")
    theirs.pass_on("simpo_gamma", "method.simpo_gamma")
    theirs.pass_on("precompute_ref_log_probs", "method.precompute_ref_log_probs")
    weight = theirs.take("cpo_alpha")
    weight = 1.0 if weight is None and kind == "simpo" else weight  # its SimPO is TRL's CPO trainer, which adds it
    if weight:
        theirs.put("method.loss_type", [LOSSES[kind], "sft"])
        theirs.put("method.loss_weights", [1.0, float(weight)])
        theirs.changed("cpo_alpha", weight, 'is the loss "sft" with this weight, 1 where SimPO says nothing')
    if weight := theirs.take("rpo_alpha"):
        theirs.put("method.loss_type", [LOSSES[kind], "sft"])
        theirs.put("method.loss_weights", [1.0, float(weight)])
        theirs.changed("rpo_alpha", weight, 'is the loss "sft" with this weight, as in newer TRLs')
    if theirs.take("dpo_norm_loss"):
        theirs.put("method.loss_type", "sigmoid_norm")
        theirs.changed("dpo_norm_loss", True, "is the loss sigmoid_norm")


def _data(theirs: Theirs) -> bool:
    """Set the data, and say whether pairs are held out."""
    for name, path in (("datasets", "data"), ("test_datasets", "validation")):
        sources = [_source(theirs, name, dict(each)) for each in theirs.take(name) or ()]
        if sources:
            theirs.put(path, sources[0] if len(sources) == 1 or path == "validation" else sources)
        if path == "validation" and len(sources) > 1:
            theirs.lost(name, [each["path"] for each in sources[1:]], "one source of held-out pairs: put them together")
    share = theirs.take("val_set_size")
    if share and float(share) < 1:
        theirs.put("validation", float(share))
    elif share:
        theirs.yours("validation", "val_set_size", share, "is a number of rows; here a share, such as 0.1, or a file")
    return "validation" in theirs.job


def _source(theirs: Theirs, name: str, told: dict[str, Any]) -> dict[str, Any]:
    path, kind, split = str(told.pop("path", "")), told.pop("type", None), told.pop("split", None)
    files, _ = told.pop("data_files", None), told.pop("ds_type", None)
    if kind is not None:
        theirs.changed(f"{name}.type", kind, f"the form of {path or 'the rows'} is detected: see `anydpo lint`")
    for inner, value in told.items():
        theirs.lost(f"{name}.{inner}", value, "the form of the rows is detected, or said by a mapping")
    if files and (path in BUILDERS or not path):
        return {"path": files}
    local = path.startswith((".", "/", "~")) or Path(path).suffix in (".json", ".jsonl", ".csv", ".parquet")
    made: dict[str, Any] = {"path": path if local else f"hf://{path}"}
    return {**made, "split": split} if split not in (None, "train") and not local else made


def _adapter(theirs: Theirs) -> None:
    kind, linear = theirs.take("adapter"), theirs.take("lora_target_linear")
    begun = theirs.take("lora_model_dir")
    four, eight = theirs.take("load_in_4bit"), theirs.take("load_in_8bit")
    if kind in ("lora", "qlora"):
        if linear:
            theirs.take("lora_target_modules")
        theirs.put("adapter", common.lora(theirs, 8, None, 0.0, None, LORA))
        if four or kind == "qlora":
            theirs.put("load_in_4bit", True)
    else:
        for name in LORA:
            theirs.take(name)
        theirs.put("adapter", "full")
        if kind is not None:
            theirs.changed("adapter", kind, "every weight is trained: there is LoRA or full")
    if eight:
        theirs.lost("load_in_8bit", True, "weights are whole or of 4 bits: load_in_4bit")
    if begun is not None:
        theirs.put("start_from", str(begun))
