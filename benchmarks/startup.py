"""What starting costs, in medians of fresh processes: `python benchmarks/startup.py [--json]`.

Bars: `import anydpo` at most 50 ms above bare Python, `anydpo.PreferenceJob` at most 100 ms above `import pydantic`,
`anydpo --help` at most 400 ms.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

BARE = [sys.executable, "-c", "pass"]
CASES = {
    "import anydpo": ([sys.executable, "-c", "import anydpo"], BARE, 50),
    "anydpo.PreferenceJob": (
        [sys.executable, "-c", "import anydpo; anydpo.PreferenceJob"],
        [sys.executable, "-c", "import pydantic"],
        100,
    ),
    "anydpo --help": ([sys.executable, "-c", "from anydpo.cli import main; main(['--help'])"], None, 400),
}


def once(command: list[str]) -> float:
    """Return the milliseconds one process took."""
    began = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return 1000 * (time.perf_counter() - began)


def main() -> None:
    """Measure each case and its base in turn, and print what is above the base."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--runs", type=int, default=10)
    given = parser.parse_args()
    rows = []
    for name, (command, base, bar) in CASES.items():
        times = [(once(command), once(base) if base else 0.0) for _ in range(given.runs + 1)][1:]
        median, below = (statistics.median(column) for column in zip(*times, strict=True))
        rows.append({"case": name, "ms": round(median - below, 1), "bar_ms": bar, "runs": given.runs})
    if given.json:
        print(json.dumps({"schema": 1, "cases": rows}))
        return
    for row in rows:
        print(f"{row['case']:<24}{row['ms']:>8.1f} ms   (bar {row['bar_ms']} ms, median of {row['runs']})")


if __name__ == "__main__":
    main()
