"""Accept or refuse two deliveries of annotations, made up here: a sound one, and one whose scale is turned round.

Run it: python examples/accept_delivery.py [--folder delivery]
"""

from __future__ import annotations

import argparse
import csv
import random
from pathlib import Path

import anydpo
from anydpo.data.accept import require, write_rework
from anydpo.data.mapping import ColumnMapping

COLUMNS = "task_id annotator_id prompt response_a response_b preference tone_a tone_b seconds".split()
MAPPING = """
[columns]
task = "task_id"
annotator = "annotator_id"
prompt = "prompt"
response_a = "response_a"
response_b = "response_b"
label = "preference"
"score.tone.a" = "tone_a"
"score.tone.b" = "tone_b"
seconds = "seconds"
"""


def deliver(path: Path, *, turned: bool, seed: int = 1) -> None:
    """Write 80 tasks judged by three people; `turned`: the vendor exported the labels the wrong way round."""
    draw = random.Random(seed)
    with path.open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file)
        out.writerow(COLUMNS)
        for task in range(80):
            good = f"Thanks for asking! Order {task} is on its way and arrives within {task % 5 + 1} days."
            bad = f"Order {task}: see the shipping policy on our page, section {task % 7 + 1}, for what applies."
            better = draw.choice("AB")
            answers = (good, bad) if better == "A" else (bad, good)
            for who in ("ann", "bob", "cem"):
                seen = better if draw.random() > 0.08 else "BA"["AB".index(better)]
                scores = (5, 2) if seen == "A" else (2, 5)
                label = "BA"["AB".index(seen)] if turned else seen
                seconds = draw.randint(3, 5) if who == "cem" and task < 10 else draw.randint(30, 90)
                out.writerow([f"t{task}", who, f"Where is order {task}?", *answers, label, *scores, seconds])


def main() -> None:
    """Judge both deliveries, and say what to send back."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("delivery"))
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mapping.toml").write_text(MAPPING, "utf-8")
    for name, turned in (("sound", False), ("turned", True)):
        path = folder / f"{name}.csv"
        deliver(path, turned=turned)
        pairs = anydpo.load(path, mapping=ColumnMapping.of(folder / "mapping.toml"))
        report = pairs.agreement()
        condition = require(report, "krippendorff>=0.6")
        redo = write_rework(report, folder / f"{name}.redo.csv")
        report.save(folder / f"{name}.html")
        accepted = condition.ok and not report.errors
        print(f"{name}: {len(pairs)} pairs; {condition.sentence()}; {'accepted' if accepted else 'REFUSED'}")
        for check in report.checks:
            if check.severity == "error":
                print(f"  {check.message}")
        print(f"  to redo: {redo}, see {folder / f'{name}.redo.csv'}")
        if accepted:
            print(
                f"  {pairs.write(folder / 'train.jsonl', 'canonical').pairs} pairs written to {folder / 'train.jsonl'}"
            )


if __name__ == "__main__":
    main()
