"""What a command job runs on a node: the configuration's placeholders, and how the trainer is started."""

from __future__ import annotations

import sys

import pytest

from anydpo_trainer.azureml import completed, trainer_command


def test_placeholders_become_paths_wherever_they_stand() -> None:
    config = {
        "train_data": "${train_file}",
        "sft": {"data": "${sft_file}"},
        "method": {"loss_type": ["sigmoid"]},
        "n": 1,
    }
    made = completed(config, {"train_file": "/mnt/a", "sft_file": "/mnt/b"})
    assert made == {"train_data": "/mnt/a", "sft": {"data": "/mnt/b"}, "method": {"loss_type": ["sigmoid"]}, "n": 1}
    assert completed("${model}/sub", {"model": "/m"}) == "/m/sub"
    with pytest.raises(KeyError):
        completed("${unknown}", {})


def test_one_process_a_node_needs_no_torchrun() -> None:
    assert trainer_command(1, {"WORLD_SIZE": "2", "RANK": "1"}) == [sys.executable, "-m", "anydpo_trainer"]


def test_several_gpus_are_started_by_torchrun() -> None:
    start = [sys.executable, "-m", "torch.distributed.run"]
    assert trainer_command(8, {}) == [*start, "--standalone", "--nproc-per-node=8", "-m", "anydpo_trainer"]
    peers = {"WORLD_SIZE": "2", "NODE_RANK": "1", "RANK": "1", "MASTER_ADDR": "10.0.0.4", "MASTER_PORT": "6105"}
    meeting = ["--nnodes=2", "--node-rank=1", "--master-addr=10.0.0.4", "--master-port=6105"]
    assert trainer_command(8, peers) == [*start, *meeting, "--nproc-per-node=8", "-m", "anydpo_trainer"]
