"""Reading at scale, ours beside the usual route: `python benchmarks/data.py [--json] [--rows N] [--runs N]`.

The task is that of the fact sheet: HH transcripts (100,000 pairs, about 240 MB, real rows perturbed, longer ones drawn
more often) to OpenAI preference lines. Ours detects the dialect, names every bad row, measures and fingerprints; the
usual route is `datasets` with three maps, one of them TRL's `extract_prompt`. Each runs in a process of its own, in
turn; "by two" is what a file above 50 MB gets on two cores, two that read and one that puts in order. Bars: ours at
least 30,000 rows/s in one process, under 100 MB, two processes at least 1.6 times one, converting at least 10 times the
usual route, the first error of a bad row at line 90,000 in under 5 s.
"""

import argparse
import gzip
import importlib.util
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

SAMPLE = Path(os.environ.get("ANYDPO_SHARED", Path(__file__).parents[2] / "shared")) / "data" / "hh-rlhf"
WAYS = (("scan", 1, ""), ("scan by two", 2, ""), ("convert", 1, "out"), ("convert by two", 2, "out"))
BARS = {"rows_per_second": 30_000, "peak_mb": 100, "two_processes": 1.6, "times_usual": 10, "first_error_seconds": 5}

OURS = """
import sys
from anydpo.data.read import read
found = read(sys.argv[1], workers=int(sys.argv[2]))
if sys.argv[3]:
    found.write(sys.argv[3], "openai")
print(found.rows, len(found), sum(found.skipped.values()))
"""

USUAL = r"""
import sys
from datasets import load_dataset
from trl.data_utils import extract_prompt

def parse(row):
    made = {}
    for side in ("chosen", "rejected"):
        turns = []
        for part in row[side].split("\n\nHuman:")[1:]:
            human, *answers = part.split("\n\nAssistant:")
            turns.append({"role": "user", "content": human.strip()})
            turns += [{"role": "assistant", "content": answer.strip()} for answer in answers]
        made[side] = turns
    return made

def form(row):
    better, worse = row["chosen"], row["rejected"]
    return {"input": {"messages": row["prompt"]}, "preferred_output": better, "non_preferred_output": worse}

rows = load_dataset("json", data_files=sys.argv[1], split="train", cache_dir=sys.argv[3] + ".cache")
rows = rows.map(parse).map(extract_prompt).map(form, remove_columns=["prompt", "chosen", "rejected"])
rows.to_json(sys.argv[3])
print(len(rows), len(rows), 0)
"""


def make(path: Path, rows: int, sample: Path, *, bad_line: int | None = None) -> None:
    """Write a file of perturbed real rows; with `bad_line`, of sound ones but for one that is cut there."""
    with gzip.open(sample / "harmless-base-train.jsonl.gz") as file:
        real = [json.loads(line) for line in file]
    if bad_line is not None:
        from anydpo import load

        real = [real[int(pair.source.rpartition(":")[2]) - 1] for pair in load(real)]
    draw = random.Random(0)
    weights = [len(row["chosen"]) for row in real]
    with path.open("w", encoding="utf-8") as file:
        for number in range(1, rows + 1):
            row = draw.choices(real, weights)[0]
            marked = {side: text.replace("\n\nHuman:", f"\n\nHuman: ({number})", 1) for side, text in row.items()}
            line = json.dumps(marked)
            file.write((line[:-20] if number == bad_line else line) + "\n")


def measured(code: str, *words: str) -> dict[str, Any]:
    """Run code in a process and return its seconds, its peak memory with that of its processes, and its counts."""
    began = time.perf_counter()
    env = {**os.environ, "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    process = subprocess.Popen([sys.executable, "-c", code, *words], stdout=subprocess.PIPE, text=True, env=env)
    peak, ended = [0], threading.Event()

    def look() -> None:
        while not ended.wait(0.1):  # looking costs a core its time
            peak.append(_resident(process.pid))

    looking = threading.Thread(target=look)
    looking.start()
    assert process.stdout is not None
    said = process.stdout.read().split()
    process.wait()
    seconds = time.perf_counter() - began
    ended.set()
    looking.join()
    if process.returncode:
        raise SystemExit(f"a run failed with {process.returncode}")
    rows, pairs, skipped = map(int, said[-3:])
    return {
        "seconds": round(seconds, 2), "rows_per_second": round(rows / seconds), "peak_mb": round(max(peak) / 1e6),
        "rows": rows, "pairs": pairs, "skipped": skipped,
    }  # fmt: skip


def _resident(pid: int) -> int:
    """Return the private and proportional memory of a process and its children, in bytes (Linux; else 0)."""
    total = 0
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            total += _resident(int(child))
    except OSError:
        pass
    return total


def first_error(path: Path, line: int) -> float:
    """Return the seconds until `anydpo lint` names the bad line."""
    began = time.perf_counter()
    command = [sys.executable, "-c", "from anydpo.cli import main; main()", "lint", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for said in process.stdout:
            if f":{line}: parse_error" in said:
                process.kill()
                return round(time.perf_counter() - began, 2)
    raise SystemExit("lint did not name the bad line")


def best(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the fastest of several runs, with the highest peak of memory."""
    return {**min(runs, key=lambda run: run["seconds"]), "peak_mb": max(run["peak_mb"] for run in runs)}


def main() -> None:
    """Make the files, run everything in turn, and print what was found beside its bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=3, help="of ours; the usual route, which is long, runs once")
    parser.add_argument("--sample", type=Path, default=SAMPLE, help="folder with harmless-base-train.jsonl.gz")
    parser.add_argument("--without-usual", action="store_true", help="leave out the usual route")
    given = parser.parse_args()
    if not (given.sample / "harmless-base-train.jsonl.gz").is_file():
        raise SystemExit(f"no HH sample in {given.sample}: name its folder with --sample")
    missing = [name for name in ("datasets", "trl") if importlib.util.find_spec(name) is None]
    if missing and not given.without_usual:
        raise SystemExit(
            f"the usual route needs {' and '.join(missing)}: pip install {' '.join(missing)} (no part of anydpo needs "
            "them), or --without-usual"
        )
    with tempfile.TemporaryDirectory() as folder:
        report(run(Path(folder), given), as_json=given.json)


def run(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Return every measurement."""
    source, bad = folder / "hh.jsonl", folder / "bad.jsonl"
    make(source, given.rows, given.sample)
    runs: dict[str, list[dict[str, Any]]] = {}
    for _ in range(given.runs):
        for name, workers, out in WAYS:
            target = str(folder / "ours.jsonl") if out else ""
            runs.setdefault(name, []).append(measured(OURS, str(source), str(workers), target))
    if not given.without_usual:
        runs["usual route"] = [measured(USUAL, str(source), "1", str(folder / "usual.jsonl"))]
    found: dict[str, Any] = {name: best(several) for name, several in runs.items()}
    line = given.rows * 9 // 10
    make(bad, given.rows, given.sample, bad_line=line)
    ratios = {
        f"{name} by two": found[name]["seconds"] / found[f"{name} by two"]["seconds"] for name in ("scan", "convert")
    }
    if not given.without_usual:
        for name in ("convert", "convert by two"):
            ratios[f"usual route, {name}"] = found["usual route"]["seconds"] / found[name]["seconds"]
    return {
        "bytes": source.stat().st_size,
        "ways": found,
        "ratios": {name: round(value, 2) for name, value in ratios.items()},
        "first_error_seconds": first_error(bad, line),
        "bars": BARS,
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
    }


def report(found: dict[str, Any], *, as_json: bool) -> None:
    """Print the measurements for people or as one JSON document."""
    if as_json:
        print(json.dumps({"schema": 1, **found}))
        return
    print(f"{found['bytes'] / 1e6:.0f} MB, {found['cores']} cores, load {found['load']}")
    for name, way in found["ways"].items():
        print(f"{name:<16}{way['seconds']:>8.2f} s {way['rows_per_second']:>9,} rows/s {way['peak_mb']:>6} MB")
    for name, ratio in found["ratios"].items():
        what, _, ours = name.partition(", ")
        print(f"{what:<16}{ratio:>8.2f} times " + (f"as long as our {ours}" if ours else "one process"))
    print(f"first error of a bad row at nine tenths of the file: {found['first_error_seconds']} s")
    print("bars: " + ", ".join(f"{name} {bar:,}" for name, bar in BARS.items()))


if __name__ == "__main__":
    main()
