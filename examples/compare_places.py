"""One job at three places, and one page that says which did best: in the sandbox, in a few seconds.

Nothing is paid and nothing leaves this machine. `--train` trains a small model behind the emulators instead of making
the curves up.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import anydpo
from anydpo import samples
from anydpo.sandbox import serve

PLACES = ["openai", "azure/managed", "together"]


def main() -> None:
    """Train everywhere, compare, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", action="store_true", help="train for real behind the emulators")
    parser.add_argument("-o", "--output", type=Path, default=Path("report.html"))
    given = parser.parse_args()
    job = anydpo.PreferenceJob(
        name="support-tone",
        model={"openai": "gpt-4.1-mini-2025-04-14", "azure": "gpt-4.1-mini-2025-04-14", "default": "Qwen/Qwen3-8B"},
        data=anydpo.load(samples.pairs(80)),
        validation=anydpo.load(samples.pairs(16, held_out=True)),
        batch_size=16,
    )
    with (
        serve(steps=5, trainer="local" if given.train else "instant") as sandbox,
        tempfile.TemporaryDirectory() as home,
    ):
        os.environ |= {**sandbox.env, "ANYDPO_HOME": home}  # a rehearsal leaves no trace among your own runs
        runs = anydpo.submit(job, PLACES)
        comparison = anydpo.compare([run.wait() for run in runs])
    comparison.print()  # two bases: their figures are grouped, and not put in one order
    comparison.save(given.output)
    print(f"\n{given.output}: {given.output.stat().st_size:,} bytes, one file")


if __name__ == "__main__":
    main()
