"""The example runs as it stands in the repository."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[3] / "examples" / "sagemaker_training.py"


def test_the_example_runs() -> None:
    env = {**os.environ, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, str(EXAMPLE)], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    said = done.stdout.splitlines()
    assert said[0].startswith("sagemaker/training: 'tiny'")
    assert [line.partition(":")[0] for line in said[1:4]] == ["Interrupted", "Restarting", "Completed"]
    assert "model.safetensors" in said[-1]
