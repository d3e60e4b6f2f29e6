"""Rehearse a SageMaker training job on this machine: spot machines that are taken away once, the weights at the end.

Needs no account: the sandbox speaks SageMaker's protocol on loopback and runs the job's container as a process.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import anydpo
from anydpo import samples
from anydpo.sandbox import serve

ROLE = "arn:aws:iam::123456789012:role/sandbox"


def main() -> None:
    """Submit, watch, and fetch what came out."""
    pairs = anydpo.load(samples.pairs(48))
    job = anydpo.PreferenceJob(
        model="tiny",
        data=pairs,
        validation=0.25,
        method=anydpo.DPO(loss_type="apo_zero"),
        batch_size=8,
        options={"sagemaker": {"role": ROLE, "instance_type": "ml.g5.2xlarge", "spot": True}},
    )
    interrupted = {"fault": "interrupted", "steps": [3], "seconds": 30}
    with serve(providers=["sagemaker"], faults=[interrupted]) as box:
        os.environ.update(box.env)
        print(anydpo.check(job, "sagemaker").route_reason)
        run = anydpo.submit(job, "sagemaker/training")
        for event in run.watch():
            if event.kind == "log" and event.text.partition(":")[0] in ("Interrupted", "Restarting", "Completed"):
                print(event.text)
        result = run.result().raise_for_state()
        print(f"held out: accuracy {result.metric('eval/rewards/accuracies')}, loss {result.metric('eval/loss'):.4f}")
        with tempfile.TemporaryDirectory() as folder:
            run.fetch(Path(folder) / "weights")
            print(sorted(path.name for path in (Path(folder) / "weights").iterdir()))


if __name__ == "__main__":
    main()
