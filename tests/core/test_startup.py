"""What starting costs: nothing heavy is imported before it is used. Times are in benchmarks/startup.py, never here."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "openai", "together", "boto3", "botocore", "azure", "transformers", "peft", "datasets", "numpy")


def modules_after(code: str) -> set[str]:
    shown = f"{code}\nimport sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", shown], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_the_package_loads_nothing_but_itself() -> None:
    before, after = modules_after("pass"), modules_after("import anydpo")
    added = {name for name in after - before if not name.startswith(("anydpo", "_"))}
    assert not added & {*HEAVY, "pydantic", "orjson", "typer", "rich", "httpx"}


@pytest.mark.parametrize(
    "code",
    [
        "import anydpo; anydpo.PreferenceJob",
        "import anydpo; anydpo.load, anydpo.check, anydpo.submit, anydpo.Result",
        "import anydpo; anydpo.providers()",
        "from anydpo.cli import run; run(['--help'])",
        "from anydpo.cli import run; run(['providers', '--json'])",
    ],
)
def test_nothing_of_a_provider_is_loaded_before_it_is_used(code: str) -> None:
    assert not {name.partition(".")[0] for name in modules_after(code)} & set(HEAVY)


def test_public_names_are_those_of_the_namespace() -> None:
    import anydpo

    assert set(anydpo.__all__) - {"__version__"} == set(anydpo._WHERE)
    for name in anydpo.__all__:
        assert getattr(anydpo, name) is not None
    assert set(anydpo.__all__) <= set(dir(anydpo))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        anydpo.nothing  # noqa: B018
