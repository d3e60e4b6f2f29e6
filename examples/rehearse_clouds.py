"""One job, three clouds, no account: send it to the sandbox of each and put the results side by side.

Nothing is paid and nothing leaves this machine: the real SDKs talk to emulators on loopback, and a small model is
trained for real behind them.
"""

from __future__ import annotations

import argparse
import os
import tempfile

import anydpo
from anydpo import samples
from anydpo.sandbox import serve

PLACES = ["openai", "azure/managed", "together"]


def main() -> None:
    """Send the job everywhere, then wait for all of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=5, help="at most so many optimiser steps a job")
    parser.add_argument("--instant", action="store_true", help="make a curve up instead of training")
    given = parser.parse_args()
    job = anydpo.PreferenceJob(
        name="support-tone",
        model={"openai": "gpt-4.1-mini-2025-04-14", "azure": "gpt-4.1-mini-2025-04-14", "default": "Qwen/Qwen3-8B"},
        data=anydpo.load(samples.pairs(80)),
        validation=anydpo.load(samples.pairs(16, held_out=True)),
        batch_size=16,
    )
    with (
        serve(steps=given.steps, trainer="instant" if given.instant else "local") as sandbox,
        tempfile.TemporaryDirectory() as home,
    ):
        os.environ |= {**sandbox.env, "ANYDPO_HOME": home}  # a rehearsal leaves no trace among your own runs
        runs = anydpo.submit(job, PLACES)
        for run in runs:
            result = run.wait().raise_for_state()
            loss, held_out = result.metric("train/loss"), result.metric("eval/loss")
            print(f"{result.place:14} {result.model.tuned}")
            print(f"{'':14} train/loss {loss:.4f}  eval/loss {held_out:.4f}  missing {len(result.metrics.missing)}")


if __name__ == "__main__":
    main()
