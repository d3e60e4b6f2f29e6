"""OpenAI says that this account may not, Together that its credit is used up, so this machine trains: one run.

Nothing is paid and nothing leaves this machine: the real SDKs talk to emulators on loopback, which refuse on purpose.
"""

from __future__ import annotations

import os
import tempfile

import anydpo
from anydpo import samples
from anydpo.sandbox import serve

REFUSALS = (
    {"fault": "not_eligible", "provider": "openai"},
    {"fault": "insufficient_quota", "provider": "together"},
)


def main() -> None:
    """Submit the job with a fallback and print where it went."""
    job = anydpo.PreferenceJob(
        name="support-tone",
        model={"openai": "gpt-4.1-mini-2025-04-14", "together": "Qwen/Qwen3-8B", "default": "tiny"},
        data=anydpo.load(samples.pairs(32)),
        batch_size=8,
    )
    with serve(trainer="instant", providers=["openai", "together"]) as sandbox, tempfile.TemporaryDirectory() as home:
        os.environ |= {**sandbox.env, "ANYDPO_HOME": home}  # a rehearsal leaves no trace among your own runs
        sandbox.break_(*REFUSALS)
        result = anydpo.submit(job, fallback=["openai", "together", "local"]).wait().raise_for_state()
        for attempt in result.attempts:
            print(f"{attempt.place:10} {attempt.error.message if attempt.error else 'trained it'}")
        print(f"train/loss {result.metric('train/loss'):.4f} after {result.usage.steps} steps on {result.place}")


if __name__ == "__main__":
    main()
