"""Teach a made-up shop's assistant its tone: SFT in both tones, DPO towards the friendly one, and proof that it took.

Run by `make demo`; needs no account, no download and no GPU. Everything is made from templates and one seed:

- 5,000 conversations, half of them answered in each of two tones, teach `tiny` to answer at all;
- 2,000 pairs, friendly and short against cold and long, with 10 % of the labels flipped, teach it which to prefer;
- 200 held-out pairs and 200 held-out questions, whose wordings no training text uses, measure what changed.

`--quick` takes a third of that, in smaller steps, and a third of the time.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import NamedTuple

import anydpo
from anydpo import samples
from anydpo.data.write import json_line


class Size(NamedTuple):
    """How much of everything."""

    chats: int
    pairs: int
    held_out: int
    batch: int


WHOLE, QUICK = Size(5_000, 2_000, 200, 32), Size(1_500, 400, 100, 8)
FLIPPED = 0.1
ACCURACY, GAIN = 0.85, 0.15  # what the demo has to reach


def write(folder: Path, size: Size, flipped: float) -> None:
    """Write the three files of the demo."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "chats.jsonl": samples.chats(size.chats),
        "pairs.jsonl": samples.pairs(size.pairs, flipped=flipped),
        "held_out.jsonl": samples.pairs(size.held_out, held_out=True),
    }
    for name, rows in files.items():
        (folder / name).write_bytes(b"".join(map(json_line, rows)))


def job_in(folder: Path, size: Size) -> anydpo.PreferenceJob:
    """Return the job: DPO with a share of likelihood, which keeps the answers right while the tone moves."""
    return anydpo.PreferenceJob(
        name="support-tone",
        model="tiny",
        data=str(folder / "pairs.jsonl"),
        validation=str(folder / "held_out.jsonl"),
        sft=anydpo.SFT(data=str(folder / "chats.jsonl"), learning_rate=3e-3),
        method=anydpo.DPO(beta=0.1, loss_type=("sigmoid", "sft"), loss_weights=(1, 10)),
        learning_rate=1e-3,
        lr_scheduler_type="cosine",
        batch_size=size.batch,
    )


def main() -> int:
    """Run the demo and return 0 if it reached what it promises."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("demo"), help="where the data goes")
    parser.add_argument("--shuffled", action="store_true", help="the control: half of the labels flipped")
    parser.add_argument("--quick", action="store_true", help="a third of the data")
    given = parser.parse_args()
    size = QUICK if given.quick else WHOLE
    began = time.monotonic()
    write(given.folder, size, 0.5 if given.shuffled else FLIPPED)
    run = anydpo.submit(job_in(given.folder, size), "local")
    print(f"run {run.id}: SFT on {size.chats:,} chats in both tones, then DPO on {size.pairs:,} pairs", flush=True)
    for event in run.watch():
        if event.kind == "metrics" and event.step and event.total_steps and event.step % 30 == 0:
            shown = {name: value for name, value in event.metrics.items() if name.endswith(("loss", "margins"))}
            print(f"  step {event.step}/{event.total_steps}  {shown}", flush=True)
    result = run.result().raise_for_state()
    questions = samples.prompts(size.held_out)
    written = run.sample(questions, max_tokens=100, temperature=1.0)
    tone, right = {}, {}
    for when in ("base", "tuned"):
        texts = [getattr(sample, when) or "" for sample in written]
        tone[when] = sum(map(samples.is_on_brand, texts)) / size.held_out
        right[when] = sum(map(samples.answers, questions, texts)) / size.held_out
    accuracy = result.metric("eval/rewards/accuracies") or 0.0
    margin = result.metric("eval/rewards/margins") or 0.0
    print(f"\n{'held out':<28}{'before DPO':>12}{'after DPO':>12}")
    print(f"{'reward accuracy':<28}{'0.000 *':>12}{accuracy:>12.3f}")
    print(f"{'reward margin':<28}{'0.000':>12}{margin:>12.3f}")
    print(f"{'answers on tone':<28}{tone['base']:>12.3f}{tone['tuned']:>12.3f}")
    print(f"{'answers that are right':<28}{right['base']:>12.3f}{right['tuned']:>12.3f}")
    print("* policy and reference are one model then: no pair is told apart\n")
    changed = next((s for s in written if not samples.is_on_brand(s.base or "")), written[0])
    print(f"question: {changed.prompt}\n  before: {changed.base}\n  after:  {changed.tuned}\n")
    print(
        f"model:  {result.model.tuned}\nresult: anydpo show {run.id} --json\ntook:   {time.monotonic() - began:.0f} s"
    )
    gain = tone["tuned"] - tone["base"]
    if given.shuffled:
        reached = accuracy <= 0.7 and abs(gain) <= 0.05
    else:
        reached = accuracy >= ACCURACY and gain >= GAIN and right["tuned"] >= right["base"]
    print("reached what it promises" if reached else "did NOT reach what it promises")
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
