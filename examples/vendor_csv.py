"""From a vendor's delivery to training pairs: `python examples/vendor_csv.py [--folder DIR]`.

A made-up delivery: three annotators a task on a seven-point scale, test questions among them, a refused row. The table
is refused first, with a mapping to start from; with the scale's direction said, it becomes pairs, and every judgement
is there for the agreement report.
"""

import argparse
import csv
import random
import tempfile
from collections import Counter
from pathlib import Path

import anydpo
from anydpo.data.guess import UnknownColumns
from anydpo.errors import DataInvalid

HEADER = "Task ID,Annotator,Prompt,Response 1,Response 2,Preference (1-7),Tone 1,Tone 2,QA status,Gold,Seconds".split(
    ","
)


def write_delivery(path: Path, tasks: int = 40) -> None:
    """Write the delivery: on its scale 1 means that response 1 is much better."""
    draw = random.Random(0)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(HEADER)
        for task in range(tasks):
            gold = "Response 1" if task % 10 == 9 else ""
            kind, curt = f"Of course! Order {task} left on Monday.", "Look it up."
            for who in ("ann", "bob", "cy"):
                said = draw.choices([1, 2, 3, 4, 6], [4, 5, 3, 1, 1])[0]
                status = "rejected" if (task, who) == (3, "bob") else "approved"
                prompt = f"Where is order {task}?"
                table.writerow([f"t{task}", who, prompt, kind, curt, said, 5, 2, status, gold, draw.randint(20, 90)])


def main() -> None:
    """Read the delivery as a user would: refused, explained, read."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=None)
    folder = parser.parse_args().folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    delivery, mapping = folder / "delivery.csv", folder / "mapping.toml"
    write_delivery(delivery)

    try:
        anydpo.load(delivery)
    except UnknownColumns as refused:
        print(refused.message, "\n\nproposed mapping:\n", refused.mapping, sep="")
        proposed = refused.mapping
    else:
        raise SystemExit("a table was read that nobody explained")

    mapping.write_text(proposed)
    try:
        anydpo.load(delivery, mapping=mapping)
    except DataInvalid as refused:
        print(f"as proposed: {refused.message}\n  {refused.hint}\n")
    settled = {"min = ": "min = 1", "max = ": "max = 7", "# low": 'low = "A"'}  # what only the vendor can tell
    lines = [settled.get(line[:6], settled.get(line[:5], line)) for line in proposed.splitlines()]
    mapping.write_text("\n".join(lines) + "\n")

    pairs = anydpo.load(delivery, mapping=mapping)
    print(pairs.account())
    first = next(iter(pairs))
    print(f"the first pair: {first.meta['votes']}, margin {first.margin}, rows {first.meta['rows']}")
    said = Counter(judgment.choice for judgment in pairs.judgments)
    gold = [judgment for judgment in pairs.judgments if judgment.gold is not None]
    print(f"{said.total()} judgements: {dict(said)}; {len(gold)} on test questions,", end=" ")
    print(f"{sum(judgment.choice == judgment.gold for judgment in gold)} of them right")
    agreed = anydpo.load(delivery, mapping=mapping, policy={"votes": "unanimous", "min_margin": 1})
    print(f"unanimous ones with a margin of at least 1: {len(agreed)}")
    written = pairs.write(folder / "train.jsonl", "canonical")
    print(f"{written.path}: {written.pairs} pairs")


if __name__ == "__main__":
    main()
