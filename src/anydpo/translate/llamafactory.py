"""LLaMA-Factory: the YAML of `llamafactory-cli train` with `stage: dpo`. Names and defaults: its `hparams`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anydpo.errors import Invalid
from anydpo.translate import common
from anydpo.translate.reading import Theirs, Translated

LOSSES = {"sigmoid": "sigmoid", "hinge": "hinge", "ipo": "ipo", "simpo": "simpo", "orpo": "orpo"}
LORA = ("lora_rank", "lora_alpha", "lora_dropout", "lora_target")
USUAL = {**common.USUAL, "do_train": True, "dataset_dir": "data", "finetuning_type": "lora"}


def fits(config: Mapping[str, Any]) -> bool:
    """Say whether this is a configuration of LLaMA-Factory."""
    return "model_name_or_path" in config and bool(
        {"stage", "finetuning_type", "pref_beta", "pref_loss"} & config.keys()
    )


def read(config: Mapping[str, Any], folder: Path) -> Translated:
    """Return the job of a configuration. Raises `Invalid` where it is no preference stage."""
    theirs = Theirs("LLaMA-Factory", config)
    stage = theirs.take("stage")
    if stage != "dpo":
        raise Invalid(f"stage {stage!r} trains no pairs", hint="stage: dpo")
    theirs.pass_on("model_name_or_path", "model")
    theirs.pass_on("ref_model", "ref_model")
    held_out = _data(theirs, folder)
    _method(theirs)
    common.read_epochs(theirs, "num_train_epochs", 3)
    common.read_batch(theirs, "per_device_train_batch_size", 8)
    common.read_length(theirs, "cutoff_len", 2048)
    common.read_schedule(theirs, "lr_scheduler_type", "linear")
    common.read_rest_of_training(theirs, 5e-5)
    common.read_rhythm(theirs, held_out)
    _adapter(theirs)
    if (template := theirs.take("template")) is not None:
        theirs.changed("template", template, "the model's own chat template is used, which may differ: chat_template")
    return theirs.done(common.ELSEWHERE, USUAL)


def _method(theirs: Theirs) -> None:
    loss = theirs.take("pref_loss", "dpo_loss") or "sigmoid"
    if loss in LOSSES:
        theirs.put("method.loss_type", LOSSES[loss])
    else:
        theirs.lost("pref_loss", loss, "no such loss; sigmoid is taken, and bco_pair is its nearest kin")
        theirs.put("method.loss_type", "sigmoid")
    theirs.put("method.beta", float(theirs.take("pref_beta", "dpo_beta") or 0.1))
    if (smoothing := theirs.take("dpo_label_smoothing")) is not None and smoothing:
        theirs.put("method.label_smoothing", smoothing)
    if (gamma := theirs.take("simpo_gamma")) is not None and loss == "simpo":
        theirs.put("method.simpo_gamma", gamma)
    theirs.pass_on("ld_alpha", "method.ld_alpha")
    if weight := theirs.take("pref_ftx", "dpo_ftx"):
        theirs.put("method.loss_type", [theirs.job["method"]["loss_type"], "sft"])
        theirs.put("method.loss_weights", [1.0, float(weight)])
        theirs.changed("pref_ftx", weight, 'is the loss "sft" with this weight; its mean over tokens may differ')
    if weight := theirs.take("pref_bco_weight"):
        theirs.lost("pref_bco_weight", weight, "there the sum is divided by 1 + this weight: add bco_pair to loss_type")


def _data(theirs: Theirs, folder: Path) -> bool:
    """Set the data, and say whether pairs are held out."""
    where = theirs.take("dataset_dir") or "data"
    known = _known(folder, str(where))
    most = theirs.take("max_samples")
    for name, path in (("dataset", "data"), ("eval_dataset", "validation")):
        given = theirs.take(name)
        if given is None:
            continue
        names = given if isinstance(given, list) else [part.strip() for part in str(given).split(",")]
        sources = [_source(theirs, path, str(each), known, Path(str(where))) for each in names]
        if most is not None and path == "data":
            sources = [{"path": each, "max_pairs": int(most)} if isinstance(each, str) else each for each in sources]
        theirs.put(path, sources[0] if len(sources) == 1 else sources)
    share = theirs.take("val_size")
    if share and float(share) < 1:
        theirs.put("validation", float(share))
    elif share:
        theirs.yours("validation", "val_size", share, "is a number of rows; here a share, such as 0.1, or a file")
    return "validation" in theirs.job


def _known(folder: Path, where: str) -> dict[str, Any]:
    """Return the table of data sets that stands beside the data, where it can be read."""
    for base in (folder, *folder.parents[:3]):
        try:
            found: dict[str, Any] = json.loads((base / where / "dataset_info.json").read_text("utf-8"))
        except (OSError, ValueError):
            continue
        return {name: {**about, "folder": base / where} for name, about in found.items() if isinstance(about, dict)}
    return {}


def _source(theirs: Theirs, ours: str, name: str, known: Mapping[str, Any], where: Path) -> Any:
    about = known.get(name, {})
    if "file_name" in about:
        return str(Path(about["folder"]) / about["file_name"])
    if "hf_hub_url" in about:
        return f"hf://{about['hf_hub_url']}"
    theirs.yours(ours, "dataset", name, f"name the file that {where / 'dataset_info.json'} has for {name!r}")
    return f"{name}.json"


def _adapter(theirs: Theirs) -> None:
    kind = theirs.take("finetuning_type") or "lora"
    begun = theirs.take("adapter_name_or_path")
    if kind == "lora":
        theirs.put("adapter", common.lora(theirs, 8, None, 0.0, "all", LORA))
    else:
        for name in LORA:
            theirs.take(name)
        theirs.put("adapter", "full")
        if kind != "full":
            theirs.changed("finetuning_type", kind, "every weight is trained: there is LoRA or full")
    if begun is not None:
        theirs.put("start_from", str(begun))
    bits = theirs.take("quantization_bit")
    theirs.take("quantization_method", "quantization_type", "double_quantization")
    if bits == 4:
        theirs.put("load_in_4bit", True)
    elif bits is not None:
        theirs.lost("quantization_bit", bits, "weights are whole or of 4 bits: load_in_4bit")
