"""Rehearse a DPO run on Azure Machine Learning: the real SDK, a sandbox on this machine, nothing paid.

Needs `pip install 'anydpo[azure,local,sandbox]'`, no account. With real names and `az login` instead of the sandbox,
the same job runs in your workspace.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import anydpo
from anydpo import samples
from anydpo.sandbox import serve


def main() -> None:
    """Submit, follow and fetch one job of two nodes."""
    job = anydpo.PreferenceJob(
        name="support-tone",
        model="Qwen/Qwen3-8B",  # the sandbox trains a small stand-in
        data=anydpo.load(list(samples.pairs(64))),
        method=anydpo.DPO(beta=0.1, loss_type="apo_zero"),
        options={"azure": {"compute": "gpu-cluster", "instance_count": 2, "timeout_seconds": 3600}},
    )
    with tempfile.TemporaryDirectory() as folder, serve(trainer="instant", providers=["azureml"]) as box:
        os.environ |= {**box.env, "ANYDPO_HOME": folder}
        plan = anydpo.check(job, "azure")
        print(f"{plan.place}: {plan.route_reason}")
        run = anydpo.submit(job, "azure")
        while not run.refresh().done:  # run.wait() asks every ten seconds, which a rehearsal need not
            pass
        result = run.result().raise_for_state()
        print(result.metric("train/rewards/margins"))
        for artifact in run.fetch(Path(folder) / "model"):
            print(artifact.kind, sorted(path.name for path in Path(artifact.path).iterdir()))
        print(f"jobs made: {len(box.requests(operation='create'))}")


if __name__ == "__main__":
    main()
