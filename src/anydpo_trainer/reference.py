"""The reference's log-probabilities: none, with every batch, or computed once and kept on disk."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from anydpo_trainer import model as models
from anydpo_trainer.batch import Encoded
from anydpo_trainer.config import Method
from anydpo_trainer.engine import IDLE, Engine
from anydpo_trainer.logprobs import sequence_sums

log = logging.getLogger("anydpo_trainer")

# Of the pairs in one forward pass, given all pairs and their indices: log ref(chosen), log ref(rejected)
ReferenceLogps = Callable[[Sequence[Encoded], Sequence[int]], "tuple[Tensor, Tensor] | None"]


def no_reference(_pairs: Sequence[Encoded], _part: Sequence[int]) -> None:
    """Stand for zeros: the loss has no reference."""
    return


def with_every_batch(reference: models.Reference, method: Method, engine: Engine) -> ReferenceLogps:
    """Return a reference that runs its model on each batch, for one that moves."""

    def compute(pairs: Sequence[Encoded], part: Sequence[int]) -> tuple[Tensor, Tensor]:
        with reference.active() as model, engine.precision():
            tokens = engine.scorer.score(model, [pairs[i].fork for i in part])
        chosen, rejected = sequence_sums(tokens, method).chunk(2)
        return chosen, rejected

    return compute


def from_table(table: Tensor, engine: Engine) -> ReferenceLogps:
    """Return a reference that looks its values up in a table of [pairs, 2]."""
    dtype = torch.float64 if engine.dtype == torch.float64 else torch.float32

    def look_up(_: Sequence[Encoded], part: Sequence[int]) -> tuple[Tensor, Tensor]:
        values = table[torch.tensor(part)].to(engine.device, dtype)
        return values[:, 0], values[:, 1]

    return look_up


def compute_table(
    reference: models.Reference,
    pairs: Sequence[Encoded],
    method: Method,
    engine: Engine,
    cache: Path,
    parts: Sequence[Sequence[int]],
) -> Tensor:
    """Return log ref(chosen) and log ref(rejected) of every pair, [pairs, 2], from the disk if they are there.

    `parts` are the forward passes to make. Where they are those of the policy's first epoch, policy and
    reference agree to the last bit before the first step, so that the margin begins at 0 and not at noise.
    """
    with reference.active() as model:
        key = _key(model, pairs, method, engine, parts)
        path = cache / "reference" / f"{key}.safetensors"
        known = _read(path, len(pairs))
        if all(engine.world.gather(known is not None)) and known is not None:  # or else all compute, on every machine
            log.info("reference log-probabilities of %d pairs read from the cache", len(pairs))
            return known
        table = torch.zeros(len(pairs), 2, dtype=torch.float64)
        with engine.precision():
            for done, (place, part) in enumerate(engine.mine(parts), 1):
                engine.check_stop()
                sums = sequence_sums(engine.scorer.score(model, [pairs[i].fork for i in part]), method)
                if place == IDLE:
                    continue
                table[torch.tensor(part)] = torch.stack(sums.chunk(2), dim=1).double().cpu()
                engine.say_progress("reference", done * engine.world.size, len(parts))
    table = engine.world.sum(table.to(engine.device)).cpu()
    if engine.world.first:
        _write(path, table)
    return table


def _key(model: Any, pairs: Sequence[Encoded], method: Method, engine: Engine, parts: Sequence[Sequence[int]]) -> str:
    """Return a hash of all that the values depend on: weights, ids, damping, arithmetic.

    What stands together in a forward pass moves the last bits, so it counts too: a cache never changes a number.
    """
    digest = hashlib.sha256(models.weights_hash(model).encode())
    digest.update(
        repr(
            (2, engine.scorer.name, method.ld_alpha, engine.device.type, str(engine.dtype), torch.__version__)
        ).encode()
    )
    digest.update(repr([list(part) for part in parts]).encode())
    for pair in pairs:
        for ids in (pair.prompt, pair.chosen, pair.rejected):
            digest.update(len(ids).to_bytes(4, "little"))
            digest.update(ids.tobytes())
    return digest.hexdigest()


def _read(path: Path, count: int) -> Tensor | None:
    try:
        table: Tensor = load_file(path)["logps"]
    except (OSError, SafetensorError, KeyError):
        return None
    return table if table.shape == (count, 2) else None


def _write(path: Path, table: Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}")
    try:
        save_file({"logps": table.contiguous()}, unfinished)
        unfinished.replace(path)
    except OSError as exc:  # a full disk costs the cache, not the run
        unfinished.unlink(missing_ok=True)
        log.warning("reference log-probabilities are not cached: %s", exc)
