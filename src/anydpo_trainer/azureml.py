"""What an Azure ML command job runs: the trainer on this node, its configuration completed with where things lie.

    python -m anydpo_trainer.azureml --out DIR [--path NAME=PATH]…

The configuration is JSON in `ANYDPO_CONFIG`; each `${NAME}` in it becomes the path of that name. On several nodes the
service names the peers in the environment as `torchrun` does; where a node has several GPUs, `torchrun` starts one
process each. Standard library only.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CONFIG, TEMPLATE = "ANYDPO_CONFIG", "ANYDPO_CHAT_TEMPLATE"
LOG = "trainer.log"
PLACEHOLDER = re.compile(r"\$\{(\w+)\}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the trainer to its end and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m anydpo_trainer.azureml", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the run's folder, the same on every node")
    parser.add_argument("--path", action="append", default=[], metavar="NAME=PATH", help="what ${NAME} stands for")
    given = parser.parse_args(arguments)
    first = os.environ.get("NODE_RANK", os.environ.get("RANK", "0")) == "0"
    try:
        paths = dict(item.split("=", 1) for item in given.path)
        config = completed(json.loads(os.environ[CONFIG]), paths)
    except (KeyError, ValueError) as exc:
        sys.stderr.write(f"{CONFIG} and --path do not fit together: {exc!r}\n")
        return 2
    work = Path.cwd() / "anydpo-work"
    work.mkdir(parents=True, exist_ok=True)
    given.out.mkdir(parents=True, exist_ok=True)
    if TEMPLATE in os.environ:
        config["chat_template"] = str(work / "chat_template.jinja")
        Path(config["chat_template"]).write_text(os.environ[TEMPLATE], "utf-8")
    rank = os.environ.get("RANK", "0")
    written = work / f"config-{rank}.json"
    written.write_text(json.dumps(config, indent=1), "utf-8")
    processes = config.get("processes") or (gpus() if config.get("device") != "cpu" else 1)
    command = trainer_command(processes, os.environ)
    return _run([*command, "train", str(written), "--out", str(given.out)], given.out / LOG if first else None)


def completed(config: Any, paths: Mapping[str, str]) -> Any:
    """Return a configuration whose `${NAME}` texts are the paths of those names; raises `KeyError` for an unknown."""
    if isinstance(config, Mapping):
        return {name: completed(value, paths) for name, value in config.items()}
    if isinstance(config, list):
        return [completed(value, paths) for value in config]
    found = PLACEHOLDER.match(config) if isinstance(config, str) else None
    return paths[found[1]] + config[found.end() :] if found else config


def trainer_command(processes: int, environment: Mapping[str, str]) -> list[str]:
    """Return how to start the trainer on this node: alone, as the one process of its rank, or under `torchrun`."""
    alone = [sys.executable, "-m", "anydpo_trainer"]
    if processes <= 1:
        return alone
    node = environment.get("NODE_RANK") or environment.get("RANK") or "0"
    nodes = environment.get("WORLD_SIZE") or "1"  # the service was asked for one process a node
    meeting = [f"--nnodes={nodes}", f"--node-rank={node}"]
    if int(nodes) > 1:
        meeting += [f"--master-addr={environment['MASTER_ADDR']}", f"--master-port={environment['MASTER_PORT']}"]
    else:
        meeting = ["--standalone"]
    run = [sys.executable, "-m", "torch.distributed.run", *meeting, f"--nproc-per-node={processes}"]
    return [*run, "-m", "anydpo_trainer"]


def gpus() -> int:
    """Return how many NVIDIA GPUs this node has, at least 1 as a count of processes."""
    return max(1, sum(path.name.removeprefix("nvidia").isdigit() for path in Path("/dev").glob("nvidia*")))


def _run(command: list[str], log: Path | None) -> int:
    """Run a command; what it says goes to standard output and, line by line, to the log in the run's folder."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    signal.signal(signal.SIGTERM, lambda number, _: process.send_signal(number))  # a machine is taken away
    assert process.stdout is not None
    for line in process.stdout:
        sys.stdout.write(line)
        sys.stdout.flush()
        if log is not None:
            with log.open("a", encoding="utf-8") as file:  # closed each time: a mounted folder shows it then
                file.write(line)
    return process.wait()


if __name__ == "__main__":
    sys.exit(main())
