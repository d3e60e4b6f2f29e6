"""Test your own fine-tuning code without an account: the official OpenAI SDK against a sandbox that fails on purpose.

Nothing is trained here (`instant`), so that it takes a second; leave that word out and every job is trained for real.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import openai

import anydpo
from anydpo import samples

MODEL = "gpt-4.1-mini-2025-04-14"


def main() -> None:
    """Send a job twice: as it should be, and with its answer lost on the way."""
    with anydpo.sandbox.serve(trainer="instant") as box, tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "prefs.jsonl"
        anydpo.load(samples.pairs(40)).write(path, "openai")
        client = openai.OpenAI(base_url=box.env["OPENAI_BASE_URL"], api_key=box.env["OPENAI_API_KEY"], max_retries=0)
        file = client.files.create(file=path, purpose="fine-tune")
        job = client.fine_tuning.jobs.create(model=MODEL, training_file=file.id, method={"type": "dpo"})
        while (seen := client.fine_tuning.jobs.retrieve(job.id)).status not in {"succeeded", "failed", "cancelled"}:
            print(seen.status)
        print(seen.status, seen.fine_tuned_model)

        box.break_({"fault": "lost_reply", "on": ["create"], "times": 1})
        try:
            client.fine_tuning.jobs.create(model=MODEL, training_file=file.id, method={"type": "dpo"})
        except openai.APIConnectionError:
            print("no answer; jobs there are now:", len(client.fine_tuning.jobs.list().data))
        assert len(box.requests("openai", "create")) == 2
        client.close()


if __name__ == "__main__":
    main()
