"""TRL: the YAML of `trl dpo --config`, or a saved `DPOConfig`. Names and defaults: TRL 1.16."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anydpo.errors import Invalid
from anydpo.translate import common
from anydpo.translate.reading import Theirs, Translated
from anydpo_trainer.config import Method

METHOD = (
    *("beta", "loss_weights", "label_smoothing", "f_divergence_type", "f_alpha_divergence_coef", "use_weighting"),
    *("ld_alpha", "discopop_tau", "reference_free", "precompute_ref_log_probs", "precompute_ref_batch_size"),
    *("sync_ref_model", "ref_model_mixup_alpha", "ref_model_sync_steps", "simpo_gamma", "cpo_alpha"),
)
NEEDS = {  # an option → what has to be on for it to have a part; a saved configuration names all of them
    "f_alpha_divergence_coef": ("f_divergence_type", "alpha_divergence"),
    "ref_model_mixup_alpha": ("sync_ref_model", True),
    "ref_model_sync_steps": ("sync_ref_model", True),
    "discopop_tau": ("loss_type", "discopop"),
}
USUAL_METHOD = Method()
BUILDERS = ("json", "csv", "parquet", "text", "arrow")
USUAL = {**common.USUAL, "truncation_mode": "keep_start", "dataset_train_split": "train", "dataset_test_split": "test"}


def fits(config: Mapping[str, Any]) -> bool:
    """Say whether this is a configuration of TRL's DPO."""
    trainer = "per_device_train_batch_size" in config or "num_train_epochs" in config or "output_dir" in config
    named = "model_name_or_path" in config and not {"stage", "finetuning_type", "pref_beta"} & config.keys()
    return named or (trainer and bool({"beta", "loss_type", "precompute_ref_log_probs"} & config.keys()))


def read(config: Mapping[str, Any], folder: Path) -> Translated:  # noqa: ARG001
    """Return the job of a configuration."""
    theirs = Theirs("TRL", config)
    theirs.pass_on("model_name_or_path", "model")
    held_out = _data(theirs)
    _method(theirs)
    training(theirs, held_out)
    _adapter(theirs)
    return theirs.done(common.ELSEWHERE, USUAL)


def training(theirs: Theirs, held_out: bool) -> None:
    """Set everything of the run that is neither data, method nor adapter."""
    common.read_epochs(theirs, "num_train_epochs", 3)
    common.read_batch(theirs, "per_device_train_batch_size", 8)
    common.read_length(theirs, "max_length", 1024)
    common.read_schedule(theirs, "lr_scheduler_type", "linear")
    common.read_rest_of_training(theirs, 1e-6)
    common.read_rhythm(theirs, held_out)


def method_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the loss and its options, without those that have no part in it."""
    losses = config.get("loss_type") or "sigmoid"
    names = [losses] if isinstance(losses, str) else [str(name) for name in losses]
    made: dict[str, Any] = {"loss_type": names[0] if len(names) == 1 else names}
    for name in METHOD:
        value = config.get(name)
        if value in (None, False) or (name != "beta" and value == getattr(USUAL_METHOD, name)):
            continue
        switch, on = NEEDS.get(name, ("", None))
        has = names if switch == "loss_type" else [config.get(switch)]
        if not switch or on in has:
            made[name] = getattr(value, "value", value)
    return made


def _method(theirs: Theirs) -> None:
    given = {name: theirs.take(name) for name in ("loss_type", *METHOD)}
    theirs.job["method"] = method_of(given)
    theirs.job["method"].setdefault("beta", 0.1)
    alpha = theirs.take("rpo_alpha")
    if alpha:
        name = theirs.job["method"]["loss_type"]
        theirs.put("method.loss_type", [name, "sft"])
        theirs.put("method.loss_weights", [1.0, float(alpha)])
        theirs.changed("rpo_alpha", alpha, 'is the loss "sft" with this weight, as in newer TRLs')
    if (mode := theirs.take("truncation_mode")) not in (None, "keep_start"):
        theirs.lost("truncation_mode", mode, "a pair is cut at its end, or skipped")


def _data(theirs: Theirs) -> bool:
    """Set the data, and say whether pairs are held out."""
    train, test = theirs.take("dataset_train_split"), theirs.take("dataset_test_split")
    measured = theirs.take("eval_on_start") or theirs.has("eval_strategy") or theirs.has("eval_steps")
    sources = [source_of(theirs, dict(each)) for each in theirs.take("datasets") or ()]
    name = theirs.take("dataset_name")
    if not sources and name is not None:
        if config := theirs.take("dataset_config"):
            theirs.lost("dataset_config", config, "a configuration of a hub data set cannot be named: give its files")
        sources = [_named(str(name), train)]
        if measured and theirs.job.get("validation") is None:
            theirs.put("validation", _named(str(name), test or "test"))
    if sources:
        theirs.put("data", sources[0] if len(sources) == 1 else sources)
    share = theirs.take("test_split_size")
    if share:
        theirs.put("validation", float(share))
    streamed = [theirs.take("streaming"), theirs.take("dataset_streaming")]
    if any(streamed):
        theirs.changed("streaming", True, "data is read as a whole, file by file")
    return "validation" in theirs.job


def source_of(theirs: Theirs, told: Mapping[str, Any]) -> Any:
    """Return one entry of a mixture: files by their paths, anything else a name of the hub or a folder."""
    path, files = str(told.get("path")), told.get("data_files")
    for name in ("name", "data_dir", "columns"):
        if told.get(name) is not None:
            theirs.lost(f"datasets.{name}", told[name], "give the files themselves as data")
    if path in BUILDERS and files:
        if isinstance(files, Mapping):
            files = files.get(str(told.get("split") or "train"), next(iter(files.values())))
        return {"path": files}
    return _named(path, told.get("split"))


def _named(name: str, split: Any) -> Any:
    if name.startswith((".", "/", "~")) or Path(name).suffix in (".json", ".jsonl", ".csv", ".parquet"):
        return name
    source = {"path": f"hf://{name}"}
    return {**source, "split": str(split)} if split not in (None, "train") else source


def _adapter(theirs: Theirs) -> None:
    names = ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules")
    used = theirs.take("use_peft")
    if used:
        if not theirs.has("lora_target_modules"):
            said = "every linear layer is adapted; TRL asks peft for the usual layers of the model's kind"
            theirs.changed("lora_target_modules", None, said)
        theirs.put("adapter", common.lora(theirs, 16, 32, 0.05, None, names))
    else:
        for name in (*names, "lora_task_type"):
            theirs.take(name)
        if used is not None or theirs.has("model_name_or_path") or "model" in theirs.job:
            theirs.put("adapter", "full")
    if theirs.take("load_in_4bit"):
        theirs.put("load_in_4bit", True)
    for name in ("lora_task_type", "bnb_4bit_quant_type", "bnb_4bit_quant_storage"):
        theirs.take(name)
    if theirs.take("load_in_8bit"):
        theirs.lost("load_in_8bit", True, "weights are whole or of 4 bits: load_in_4bit")


def check_kind(kind: Any) -> None:
    """Raise `Invalid` for a configuration of another method."""
    if kind not in (None, "dpo", "DPO"):
        raise Invalid(f"{kind!r} is no preference optimisation of pairs", hint="dpo, ipo, simpo or orpo")
