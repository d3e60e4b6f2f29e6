"""Trainer processes for the tests that kill them: forked from a server that has torch loaded, so that each is quick."""

from __future__ import annotations

import multiprocessing
import os
import sys
from multiprocessing.context import ForkServerContext
from pathlib import Path


def context() -> ForkServerContext:
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(["tests.trainer.preload"])
    return made


def train(config: str, out: str) -> None:
    """Run `python -m anydpo_trainer train` here and leave with its status."""
    log = os.open(str(Path(out).with_suffix(".log")), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    from anydpo_trainer.__main__ import main

    sys.exit(main(["train", config, "--out", out]))


def train_as(rank: int, size: int, port: int, config: str, out: str) -> None:
    """Train as one of several processes, as `torchrun` would start them."""
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in places.items()}, MASTER_ADDR="127.0.0.1")
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    train(config, out)
