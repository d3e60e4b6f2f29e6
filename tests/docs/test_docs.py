"""Documentation is run: every shell and Python block of every page, every example, and the build with no warning."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
BLOCK = re.compile(r"^```(sh|python|toml)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHORTER = (  # where not everything is counted: less is learned before DPO, and the sandbox's own tests train for real
    (re.compile(r"^(anydpo init (\S+).*)$", re.MULTILINE), r"\1\nsed -i.bak 's/^epochs = 3$/epochs = 1/' \2/job.toml"),
    (re.compile(r"anydpo sandbox(?! --trainer)( --steps \d+)?"), "anydpo sandbox --trainer instant"),
)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PYTHONWARNINGS": "ignore"}


@pytest.fixture(scope="module")
def rehearsal() -> Iterator[dict[str, str]]:
    """What leads to the clouds that the README names: to their sandbox."""
    from anydpo.sandbox import serve

    with serve(trainer="instant", steps=4, providers=["together"]) as box:
        yield dict(box.env)


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_every_block_of_a_page_runs(page: Path, tmp_path: Path, rehearsal: dict[str, str], full: bool) -> None:
    blocks = BLOCK.findall(page.read_text("utf-8"))
    env = environment(tmp_path) | (rehearsal if page.name == "README.md" else {})
    if not full:
        settings = Path(env["ANYDPO_HOME"]) / "config.toml"
        settings.parent.mkdir()
        settings.write_text('[defaults]\nmax_steps = 3\nallow_ignored = ["max_steps"]\n')
        blocks = [(language, shorter(text)) for language, text in blocks]
    if any("support_tone.jsonl" in text and "init" not in text for _, text in blocks[:1]):
        subprocess.run([BIN / "anydpo", "init", "."], cwd=tmp_path, env=env, check=True)
    for language, text in blocks:
        if language == "toml":
            check_job(text, tmp_path)
            continue
        command = ["bash", "-euo", "pipefail", "-c", text] if language == "sh" else [sys.executable, "-c", text]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{text}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def shorter(text: str) -> str:
    for found, instead in SHORTER:
        text = found.sub(instead, text)
    return text


def check_job(text: str, folder: Path) -> None:
    from anydpo import PreferenceJob

    path = folder / "example.toml"
    path.write_text(text)
    assert PreferenceJob.from_toml(path).model


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    env = {**environment(tmp_path), "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (0, "")
    assert (tmp_path / "site" / "local" / "index.html").is_file()


def test_the_page_of_losses_is_the_trainers_own_table() -> None:
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        from losses_page import page  # type: ignore[import-not-found]
    finally:
        sys.path.pop(0)
    assert (ROOT / "docs" / "losses.md").read_text("utf-8") == page()


def test_the_demo_reaches_what_it_promises(tmp_path: Path, full: bool) -> None:
    """`make demo` runs the same file; `make proof` runs it with its control, so that they are not run twice here."""
    if full:
        return
    demo = ROOT / "examples" / "support_tone.py"
    command = [sys.executable, str(demo), "--folder", str(tmp_path / "demo"), "--quick"]
    done = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "reached what it promises" in done.stdout


def test_one_job_is_rehearsed_on_three_clouds(tmp_path: Path, full: bool) -> None:
    command = [sys.executable, str(ROOT / "examples" / "rehearse_clouds.py"), *([] if full else ["--instant"])]
    done = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.count("train/loss") == 3


def test_the_vendors_delivery_becomes_pairs(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "examples" / "vendor_csv.py"), "--folder", str(tmp_path)]
    done = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "there is no default" in done.stdout
    assert "12 test_question" in done.stdout


def test_a_spot_job_is_interrupted_and_completes(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "examples" / "sagemaker_training.py")]
    done = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    said = done.stdout.splitlines()
    assert said[0].startswith("sagemaker/training: 'tiny'")
    assert [line.partition(":")[0] for line in said[1:4]] == ["Interrupted", "Restarting", "Completed"]
    assert "model.safetensors" in said[-1]


WITH_THEIR_OWN_TEST = ("support_tone.py", "vendor_csv.py", "rehearse_clouds.py", "sagemaker_training.py")
EXAMPLES = sorted(path for path in (ROOT / "examples").glob("*.py") if path.name not in WITH_THEIR_OWN_TEST)


@pytest.mark.parametrize("example", EXAMPLES, ids=[path.name for path in EXAMPLES])
def test_every_example_runs(example: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, example], cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]


def test_readme_names_every_installed_place() -> None:
    from anydpo import providers

    text = (ROOT / "README.md").read_text("utf-8")
    assert all(f"| `{place}` |" in text for place in providers())
    from anydpo_trainer.config import LOSSES

    assert f"all {len(LOSSES)} |" in text


def test_the_example_accepts_the_sound_delivery_and_refuses_the_turned_one(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "examples" / "accept_delivery.py"), "--folder", str(tmp_path / "delivery")]
    done = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "sound: 80 pairs; krippendorff>=0.6" in done.stdout
    assert "met; accepted" in done.stdout
    assert "met; REFUSED" in done.stdout
    assert "contradicts the annotator's own scores in 240 of 240" in done.stdout
    assert (tmp_path / "delivery" / "turned.redo.csv").read_text("utf-8").count("contradicts_scores") == 240
