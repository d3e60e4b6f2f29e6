"""`python -m anydpo_trainer train|evaluate|generate|merge CONFIG.json --out DIR`, alone or under `torchrun`."""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from anydpo_trainer import __version__, folder, memory
from anydpo_trainer.config import Config, ConfigError, Evaluation, Generation, Merge, read_json
from anydpo_trainer.errors import TrainerError

log = logging.getLogger("anydpo_trainer")

KINDS: dict[str, Any] = {"train": Config, "evaluate": Evaluation, "generate": Generation, "merge": Merge}
DONE, FAILED, BAD_CONFIG, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 done, 1 failed, 2 refused, 130 stopped and resumable."""
    parser = argparse.ArgumentParser(prog="python -m anydpo_trainer", description=__doc__)
    parser.add_argument("command", choices=KINDS)
    parser.add_argument("config", type=Path, help="a JSON file; anydpo_trainer/config.py has every option")
    parser.add_argument("--out", type=Path, required=True, help="the run's folder; an earlier run there is resumed")
    given = parser.parse_args(arguments)
    folder.log_to_stdout(first=os.environ.get("RANK", "0") == "0")
    try:
        config = KINDS[given.command].parse(read_json(given.config))
    except ConfigError as exc:
        for problem in exc.problems:
            log.error("%s %s%s", problem.field, problem.message, f" ({problem.hint})" if problem.hint else "")
        _leave_result(given.out, {"state": "failed", "error": _refusal(exc)})
        return BAD_CONFIG
    return _run(given.command, config, given.out)


def _run(command: str, config: Any, out: Path) -> int:
    first = os.environ.get("RANK", "0") == "0"
    out.mkdir(parents=True, exist_ok=True)
    try:
        with folder.locked(out) if first else nullcontext():
            if command == "train" and first and _already_done(out):
                return DONE
            stop = folder.StopSignals(out)
            return _work(command, config, out, stop, first=first)
    except TrainerError as exc:  # the lock is another's, and so is the result
        log.error("%s (%s)", exc.message, exc.hint)
        return FAILED


def _work(command: str, config: Any, out: Path, stop: folder.StopSignals, *, first: bool) -> int:
    """Import what is heavy, join the peers, run the command and leave its result."""
    os.environ.setdefault("TQDM_DISABLE", "1")  # the log is lines, also when nobody watches
    # OpenMP's threads wait by spinning; two trainers on one machine then take ten times as long as one after the other
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    memory.keep_freed()
    with memory.importing():
        import torch

        if (why := stop.asked()) and "RANK" not in os.environ:  # peers would wait for this one
            return _stopped(why, out, first=first)
        import transformers.modeling_utils  # noqa: F401 - else it comes with the first model, and takes longer
        from transformers.utils import logging as transformers_log

        from anydpo_trainer import model as models
        from anydpo_trainer.engine import Engine, Stopped
        from anydpo_trainer.shard import World

    quiet: Any = transformers_log.disable_progress_bar
    quiet()
    result: dict[str, Any] | None = None
    status, world = FAILED, World()
    try:
        _make_models(config)
        world = World.join()
        device = models.pick_device(getattr(config, "device", "cpu"), world.local_rank)
        dtype = models.pick_dtype(getattr(config, "dtype", "auto"), device)
        engine = Engine(device, dtype, world, stop_asked=stop.asked)
        found = COMMANDS[command](config, out, engine)
        status, result = DONE, {"state": "succeeded", "error": None, **found}
    except Stopped as stopped:
        status = _stopped(stopped.why, out, first=first)
    except KeyboardInterrupt:
        status = INTERRUPTED
    except (TrainerError, torch.OutOfMemoryError, MemoryError, OSError) as exc:
        error = _explained(exc)
        log.error("%s%s", error["message"], f" ({error['hint']})" if error["hint"] else "")
        result = {"state": "failed", "error": error}
    except Exception as exc:
        if world.lost_a_peer(exc):
            log.error("another process of this run is gone; the same command goes on from the last checkpoint")
            return INTERRUPTED
        log.exception("the trainer broke")
        hint = "this is a bug: please report it with the lines above"
        result = {"state": "failed", "error": {"code": "crashed", "message": repr(exc), "hint": hint}}
    finally:
        world.leave()
    if first and result is not None:
        _leave_result(out, result)
    return status


def _stopped(why: str, out: Path, *, first: bool) -> int:
    log.info("stopped: %s; the same command goes on from the last checkpoint", why)
    if first and why == "cancelled":
        _leave_result(out, {"state": "cancelled", "error": None})
    return INTERRUPTED


def _make_models(config: Any) -> None:
    """Have the first process of each machine make what is made there, such as `tiny`, before the peers join.

    Joining waits for it; afterwards transformers writes no model on any other rank than 0, and a machine may have a
    cache of its own.
    """
    from anydpo_trainer import model as models

    if os.environ.get("LOCAL_RANK", "0") != "0" or isinstance(config, (Generation, Merge)):
        return
    models.start_of(getattr(config, "start_from", None), config.model, _cache(config), config.seed)
    if config.ref_model is not None:
        models.folder_of(config.ref_model, _cache(config), config.seed)


def _train(config: Config, out: Path, engine: Any) -> dict[str, Any]:
    from anydpo_trainer.train import train

    return asdict(train(config, out, engine, _cache(config)))


def _evaluate(config: Evaluation, out: Path, engine: Any) -> dict[str, Any]:
    from anydpo_trainer.evaluate import evaluate

    return evaluate(config, out, engine, _cache(config))


def _generate(config: Generation, out: Path, engine: Any) -> dict[str, Any]:
    from anydpo_trainer.generate import generate

    return {"samples": generate(config, out, engine, _cache(config))}


def _merge(config: Merge, out: Path, engine: Any) -> dict[str, Any]:
    from anydpo_trainer.merge import merge

    return merge(config, out, engine, _cache(config))


COMMANDS: dict[str, Any] = {"train": _train, "evaluate": _evaluate, "generate": _generate, "merge": _merge}


def _already_done(out: Path) -> bool:
    try:
        state = json.loads((out / folder.RESULT).read_text("utf-8"))["state"]
    except (OSError, ValueError, KeyError):
        return False
    if state == "succeeded":
        log.info("%s: this run has succeeded already; nothing to do", out)
        return True
    (out / folder.RESULT).unlink()
    return False


def _cache(config: Any) -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(config.cache_dir or Path(home) / "anydpo")


def _leave_result(out: Path, result: dict[str, Any]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    folder.write_json(out / folder.RESULT, {"schema": 1, "versions": _versions(), **result})


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {"anydpo_trainer": __version__, "python": platform.python_version()}
    for name in ("torch", "transformers", "peft"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _refusal(exc: ConfigError) -> dict[str, Any]:
    first = exc.problems[0]
    return {
        "code": first.code,
        "message": str(exc),
        "hint": first.hint,
        "problems": [p._asdict() for p in exc.problems],
    }


def _explained(exc: BaseException) -> dict[str, Any]:
    if isinstance(exc, TrainerError):
        return {"code": exc.code, "message": exc.message, "hint": exc.hint}
    if isinstance(exc, OSError):
        hint = "make room and run the same command again: it goes on from the last checkpoint"
        return {"code": "no_space" if exc.errno == 28 else "cannot_write", "message": str(exc), "hint": hint}
    hint = "lower micro_batch_size or max_length, set gradient_checkpointing, or use LoRA"
    return {
        "code": "out_of_memory",
        "message": f"memory ran out: {str(exc).splitlines()[0] if str(exc) else ''}",
        "hint": hint,
    }


if __name__ == "__main__":
    ended = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(ended)  # all is written; to take down torch and a model object by object takes as long as some runs' steps
