"""One training run from configuration to model: read, load, SFT, reference, DPO, evaluation, save."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from anydpo_trainer import checkpoint as checkpoints
from anydpo_trainer import fsdp, memory, sft
from anydpo_trainer import model as models
from anydpo_trainer.batch import Encoded
from anydpo_trainer.checkpoint import Checkpoints, Progress
from anydpo_trainer.config import Config
from anydpo_trainer.dpo import DpoStage, first_epoch
from anydpo_trainer.engine import Engine
from anydpo_trainer.errors import TrainerError
from anydpo_trainer.evaluate import measure, whole_set, write_rows
from anydpo_trainer.fast.choose import Passes, choose, prepare_too
from anydpo_trainer.folder import METRICS, PAIRS
from anydpo_trainer.loop import Loop, Trainee
from anydpo_trainer.metrics_file import MetricsFile
from anydpo_trainer.reference import ReferenceLogps, compute_table, from_table, no_reference, with_every_batch
from anydpo_trainer.tokenise import Encoder, Refused, read_rows, sft_rows

log = logging.getLogger("anydpo_trainer")

FREE_TO_CHANGE = (
    "cache_dir",
    "device",
    "processes",
    "sharding",
    "save_total_limit",
    "save_steps",
)  # a checkpoint fits whatever these say


@dataclass
class Data:
    """What is trained and what is held out, as token ids."""

    train: list[Encoded]
    validation: list[Encoded]
    refused: Refused
    encoder: Encoder


@dataclass
class Report:
    """What a run tells its caller at the end."""

    effective: dict[str, Any]
    model: dict[str, Any]
    data: dict[str, Any]
    stages: list[dict[str, Any]]
    metrics: dict[str, float]
    seconds: float


def train(config: Config, out: Path, engine: Engine, cache: Path) -> Report:
    """Train as `config` says and leave the model in `out/model`; goes on from the last whole checkpoint."""
    began = time.monotonic()
    start = models.start_of(config.start_from, config.model, cache, config.seed)
    known = models.load_config(start)
    tokenizer = models.load_tokenizer(start)
    data = _read(config, tokenizer, known)
    engine.check_stop()
    engine.sharded = _needs_sharding(config, known, engine)
    engine.averaged = engine.sharded and config.adapter is None
    _check_memory(config, known, engine)
    policy = _load_policy(config, start, engine)
    trainee = _trainee(config, policy, tokenizer, out)
    done = trainee.checkpoints.latest()
    progress = _resume(trainee, done, engine)
    passes = _passes(config, policy, data, engine, progress)
    if engine.sharded:
        fsdp.shard(policy, engine)
        trainee = replace(trainee, weights=[weight for weight in policy.parameters() if weight.requires_grad])
    stages: list[dict[str, Any]] = []
    if config.sft is not None:
        trainee, ended = _sft(config, trainee, data, out, engine, progress)
        stages.append({"stage": "sft", "steps": ended.step, "tokens": ended.tokens} if ended else {"stage": "sft"})
    begun = str(out / "sft") if config.sft is not None else start
    reference = _references(config, trainee.model, begun, data, engine, cache)
    if done is not None and done[1].stage == "dpo":
        checkpoints.load_weights(trainee.model, done[0] / "model")
        reference.restore(done[0])
    ended = _dpo(config, trainee, data, reference, engine, progress)
    last = trainee.metrics.last("dpo")
    metrics = {name: value for name, value in last.items() if "/" in name}
    stages.append({"stage": "dpo", "steps": ended.step, "tokens": ended.tokens, "best_step": ended.best_step})
    if data.validation:
        measured, rows = measure(
            trainee.model, data.validation, config.method, engine, reference.validation, config.micro_batch_size
        )
        if engine.world.first:
            write_rows(rows, out / PAIRS)
            place = {"stage": "dpo", "step": ended.step, "epoch": last["epoch"], "final": True}
            trainee.metrics.append({**place, **measured})
            log.info("held-out pairs  %s", "  ".join(f"{k}={v:.6g}" for k, v in sorted(measured.items())))
        metrics.update(measured)
    whole = fsdp.full_state(trainee.model)
    if engine.world.first:
        models.save(trainee.model, tokenizer, out / "model", whole)
    return Report(
        effective=_effective(config, data, engine, trainee, passes),
        model=_about(config, trainee, start),
        data={
            "train_pairs": len(data.train),
            "validation_pairs": len(data.validation),
            "skipped": dict(data.refused.counts),
            "skipped_rows": data.refused.rows,
        },
        stages=stages,
        metrics=metrics,
        seconds=time.monotonic() - began,
    )


@dataclass
class _References:
    train: ReferenceLogps
    validation: ReferenceLogps
    moving: models.Reference | None = None

    def restore(self, checkpoint: Path) -> None:
        if self.moving is not None and self.moving.model is not None:
            checkpoints.load_weights(self.moving.model, checkpoint / "reference")


def _read(config: Config, tokenizer: Any, known: Any) -> Data:
    limit = config.max_length or models.context_length(known)
    encoder = Encoder(tokenizer, config.chat_template, limit, config.truncation)
    train_pairs = list(encoder.pairs(read_rows(config.train_data)))
    if not train_pairs:
        reasons = ", ".join(f"{count} {reason}" for reason, count in encoder.refused.counts.items())
        raise TrainerError(
            "no_pairs", f"{config.train_data}: no pair can be trained ({reasons or 'the file is empty'})"
        )
    validation = list(encoder.pairs(read_rows(config.validation_data))) if config.validation_data else []
    for row in encoder.refused.rows[:10]:
        log.warning("%(source)s: %(reason)s: %(detail)s; the pair is left out", row)
    log.info(
        "%d pairs to train, %d held out, %d left out; chat template: %s; longest %d tokens",
        len(train_pairs),
        len(validation),
        sum(encoder.refused.counts.values()),
        encoder.template_name,
        max(pair.longest for pair in train_pairs),
    )
    return Data(train_pairs, validation, encoder.refused, encoder)


def _needed(config: Config, weights: int, engine: Engine) -> dict[str, float]:
    """Return the bytes by part that this process needs at least."""
    trained = 0 if config.adapter is not None else weights
    separate = config.method.sync_ref_model or config.ref_model is not None
    each = 0.6 if config.load_in_4bit else _weight_dtype(config, engine).itemsize
    needed = memory.least_bytes(weights, trained, reference=separate, weight_bytes=each)
    return {name: size / (engine.world.size if engine.sharded else 1) for name, size in needed.items()}


def _available(engine: Engine) -> tuple[float | None, str]:
    """Return the bytes that this process can have, and where."""
    if engine.device.type == "cuda":
        return float(torch.cuda.mem_get_info(engine.device)[0]), "on the GPU"
    free = memory.available_ram()
    return free if free is None else free / int(os.environ.get("LOCAL_WORLD_SIZE", "1")), "of memory"


def _needs_sharding(config: Config, known: Any, engine: Engine) -> bool:
    """Say whether the weights are to be in parts: when that is asked for, or else when they would not fit."""
    if engine.world.size == 1 or config.sharding == "none" or config.load_in_4bit:
        return False
    if config.sharding == "full":
        return True
    available, _ = _available(engine)
    needed = sum(_needed(config, models.count_weights(known), engine).values())
    return any(engine.world.gather(available is not None and needed > 0.7 * available))


def _check_memory(config: Config, known: Any, engine: Engine) -> None:
    weights = models.count_weights(known)
    needed = _needed(config, weights, engine)
    available, where = _available(engine)
    sentence = memory.shortage(needed, available, where) if available is not None else None
    if sentence:
        raise TrainerError(
            "no_memory", f"{config.model} ({weights / 1e6:.0f} M weights) {sentence}", "use LoRA or a smaller model"
        )
    log.info(
        "%s: %.1f M weights, %s on %s",
        config.model,
        weights / 1e6,
        str(engine.dtype).removeprefix("torch."),
        engine.device,
    )


def _weight_dtype(config: Config, engine: Engine) -> torch.dtype:
    """Frozen base weights may be in half precision; weights that are trained keep a float32 master."""
    if engine.dtype == torch.bfloat16 and config.adapter is None:
        return torch.float32
    return engine.dtype


def _load_policy(config: Config, start: str, engine: Engine) -> Any:
    device = torch.device("cpu") if engine.sharded else engine.device
    model = models.load_model(start, _weight_dtype(config, engine), device, in_4bit=config.load_in_4bit)
    if models.adapter_base(start):
        if config.adapter is None:
            model = model.merge_and_unload()
        else:
            models.train_only_adapter(model, start)
    elif config.adapter is not None:
        engine.seed(config.seed, "adapter")
        model = models.add_adapter(model, config.adapter)
    models.switch_off_dropout(model, keep_lora=True)
    if config.gradient_checkpointing:
        models.checkpoint_activations(model)
    return model


def _trainee(config: Config, model: Any, tokenizer: Any, out: Path) -> Trainee:
    weights = models.make_trainable(model, adapter=config.adapter is not None)
    names = {key: value for key, value in config.to_dict().items() if key not in FREE_TO_CHANGE}
    shapes = {name: list(weight.shape) for name, weight in model.named_parameters() if weight.requires_grad}
    identity = hashlib.sha256(json.dumps([names, shapes], sort_keys=True).encode()).hexdigest()
    kept = Checkpoints(out / "checkpoints", config.save_total_limit, identity)
    return Trainee(model, tokenizer, weights, kept, MetricsFile(out / METRICS))


def _resume(trainee: Trainee, done: tuple[Path, Progress] | None, engine: Engine) -> Progress | None:
    progress = done[1] if done else None
    if engine.world.first:
        if progress is not None:
            log.info("going on after %s step %d", progress.stage, progress.step)
        trainee.metrics.keep_until(progress.stage if progress else "sft", progress.step if progress else -1)
    engine.world.wait()
    return progress


def _passes(config: Config, policy: Any, data: Data, engine: Engine, progress: Progress | None) -> Passes:
    return choose(
        policy,
        data.train,
        engine,
        wanted=config.prefix_sharing,
        longest=data.encoder.max_length
        if config.sft is not None
        else max((p.longest for p in data.validation), default=0),
        tokens=progress.pass_tokens if progress else None,
        checkpointed=config.gradient_checkpointing,
    )


def _sft(
    config: Config, trainee: Trainee, data: Data, out: Path, engine: Engine, progress: Progress | None
) -> tuple[Trainee, Progress | None]:
    """Run the supervised stage, or take its result from the folder; the policy starts DPO from there."""
    assert config.sft is not None
    folder, ended = out / "sft", None
    if all(engine.world.gather(folder.is_dir())):
        checkpoints.load_weights(trainee.model, folder)
    else:
        chosen = config.sft.data == "chosen"
        limit = config.sft.max_length or data.encoder.max_length
        encoder = Encoder(trainee.tokenizer, config.chat_template, limit, config.truncation)
        source = config.train_data if chosen else config.sft.data
        answers = list(encoder.answers(sft_rows(read_rows(source), chosen=chosen)))
        if not answers:
            raise TrainerError("no_answers", f"{source}: no answer to learn from")
        data.refused.counts.update({f"sft_{name}": count for name, count in encoder.refused.counts.items()})
        if progress is not None:
            checkpoints.load_weights(trainee.model, trainee.checkpoints.path(progress.stage, progress.step) / "model")
        stage = sft.SftStage(trainee.model, answers, config, config.sft, engine)
        ended = Loop(stage, trainee, config, engine).run(progress)
        whole = fsdp.full_state(trainee.model)
        if engine.world.first:
            models.save(trainee.model, trainee.tokenizer, folder, whole)
        engine.world.wait()
    if config.adapter is not None:
        models.train_only_adapter(trainee.model, str(folder))
    weights = models.make_trainable(trainee.model, adapter=config.adapter is not None)
    return replace(trainee, weights=weights), ended


def _references(config: Config, policy: Any, begun: str, data: Data, engine: Engine, cache: Path) -> _References:
    """Build the reference while the policy still is what it starts from."""
    method = config.method
    if not method.needs_reference:
        return _References(no_reference, no_reference)
    separate = None
    if config.ref_model is not None:
        folder = models.folder_of(config.ref_model, cache, config.seed)
        device = torch.device("cpu") if engine.sharded else engine.device
        separate = models.load_model(folder, _weight_dtype(config, engine), device)
        if separate.config.vocab_size != policy.config.vocab_size:
            raise TrainerError(
                "other_vocabulary", f"ref_model: {config.ref_model} has another vocabulary than the model"
            )
        prepare_too(separate, data.train, engine)
        if engine.sharded:
            fsdp.shard(separate, engine)
    if _precompute(config, data):
        fixed = separate or (policy if config.adapter is None else None)
        reference = models.Reference(policy, fixed)

        def table(pairs: Sequence[Encoded], parts: Sequence[Sequence[int]]) -> ReferenceLogps:
            if not pairs:
                return no_reference
            return from_table(compute_table(reference, pairs, method, engine, cache, parts), engine)

        size = method.precompute_ref_batch_size or config.micro_batch_size
        return _References(
            table(data.train, first_epoch(data.train, config, engine, size)),
            table(data.validation, whole_set(data.validation, engine, size)),
        )
    if separate is None and config.adapter is None:
        separate = _copy_of(policy, config, begun, data, engine)
    reference = models.Reference(policy, separate)
    each = with_every_batch(reference, method, engine)
    return _References(each, each, reference if method.sync_ref_model else None)


def _copy_of(policy: Any, config: Config, begun: str, data: Data, engine: Engine) -> Any:
    """Return the policy as it is before its first step, apart from what will be trained."""
    if not engine.sharded:
        return copy.deepcopy(policy).requires_grad_(False)
    made = _load_policy(config, begun, engine).requires_grad_(False)
    prepare_too(made, data.train, engine)
    fsdp.shard(made, engine)
    return made


def _precompute(config: Config, data: Data) -> bool:
    wanted = config.method.precompute_ref_log_probs
    if wanted is not None or config.method.sync_ref_model:
        return bool(wanted)
    return config.max_steps is None or config.max_steps * config.batch_size >= len(data.train)


def _dpo(
    config: Config, trainee: Trainee, data: Data, reference: _References, engine: Engine, progress: Progress | None
) -> Progress:
    method = config.method
    stage = DpoStage(trainee.model, data.train, config, engine, reference.train)

    def evaluate() -> dict[str, float]:
        return measure(trainee.model, data.validation, method, engine, reference.validation, config.micro_batch_size)[0]

    def follow(step: int) -> None:
        if reference.moving is not None and step % method.ref_model_sync_steps == 0:
            reference.moving.follow(method.ref_model_mixup_alpha)

    if reference.moving is not None:
        trainee = replace(trainee, reference=reference.moving.model)
    loop = Loop(stage, trainee, config, engine, evaluate=evaluate, after_step=follow)
    return loop.run(progress if progress is not None and progress.stage == "dpo" else None)


def _effective(config: Config, data: Data, engine: Engine, trainee: Trainee, passes: Passes) -> dict[str, Any]:
    """Return what was really run, every default resolved."""
    made = config.to_dict()
    for name in ("train_data", "validation_data", "cache_dir", "start_from"):
        made.pop(name)
    made.update(
        learning_rate=config.stage_learning_rate("dpo"),
        max_length=data.encoder.max_length,
        chat_template=data.encoder.template_name,
        dtype=str(engine.dtype).removeprefix("torch."),
        device=str(engine.device),
        processes=engine.world.size,
        sharding="full" if engine.sharded else "none",
        gradient_checkpointing=passes.gradient_checkpointing,
        passes=asdict(passes),
        adapter=made["adapter"] or "full",
        trained_weights=sum(weight.numel() for weight in trainee.weights),
    )
    made["method"]["precompute_ref_log_probs"] = _precompute(config, data)
    if config.sft is not None:
        made["sft"]["learning_rate"] = config.stage_learning_rate("sft")
    return made


def _about(config: Config, trainee: Trainee, start: str) -> dict[str, Any]:
    return {
        "start": start,
        "base": models.adapter_base(start) or start,
        "adapter": config.adapter is not None,
        "weights": sum(weight.numel() for weight in trainee.model.parameters()),
    }
