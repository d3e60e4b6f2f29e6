"""One name, what each place calls it, and where it can be trained."""

from __future__ import annotations

import tomllib
from datetime import date
from importlib.resources import files

import pytest

import anydpo
from anydpo import PreferenceJob
from anydpo.catalogue import id_at, other_base, same_weights
from anydpo.errors import JobInvalid
from anydpo.home import home

LLAMA = "meta-llama/Llama-3.3-70B-Instruct"


def test_every_entry_says_who_says_so() -> None:
    table = tomllib.loads((files("anydpo") / "models.toml").read_text("utf-8"))
    entries = [at for model in table["models"].values() for at in model.values() if isinstance(at, dict)]
    assert len(entries) >= 35
    assert all(at["source"] in table["sources"] for at in entries)
    assert all(isinstance(source["date"], date) and source["what"] for source in table["sources"].values())


def test_the_catalogue_agrees_with_the_providers_own_tables() -> None:
    """The days on which OpenAI's models end, and Together's bounds, stand with the adapters too."""
    table = tomllib.loads((files("anydpo") / "models.toml").read_text("utf-8"))["models"]
    theirs = tomllib.loads((files("anydpo_openai") / "openai.toml").read_text("utf-8"))["models"]
    assert {name: about["shutdown"] for name, about in theirs.items()} == {
        name: about["openai"]["retires"] for name, about in table.items() if "openai" in about
    }
    bounds = tomllib.loads((files("anydpo_together") / "together.toml").read_text("utf-8"))["models"]
    for name, known in bounds.items():
        ours = table[name]["together"]
        assert (ours.get("context"), ours.get("batch")) == (known.get("max_length"), known.get("batch_size")), name


def test_a_place_uses_its_own_entry_then_its_name_for_the_default_then_the_default() -> None:
    def model(given: object, place: str) -> str | None:
        return PreferenceJob(model=given, data="x.jsonl").model_for(place)  # type: ignore[arg-type]

    assert model(LLAMA, "together") == f"{LLAMA}-Reference"
    assert model(LLAMA, "local") == LLAMA
    assert model({"together": "x/y", "default": LLAMA}, "together") == "x/y"
    assert model({"local": "tiny", "default": LLAMA}, "together") == f"{LLAMA}-Reference"
    assert model("Qwen/Qwen3-8B", "sagemaker/serverless") == "huggingface-reasoning-qwen3-8b"
    assert model("Qwen/Qwen3-8B", "sagemaker/training") == "Qwen/Qwen3-8B"
    assert model({"openai": "gpt-4.1-2025-04-14"}, "together") is None
    assert model("nobody/knows-it", "together") == "nobody/knows-it"


def test_what_the_catalogue_learns_changes_no_identity() -> None:
    from anydpo.identity import job_fingerprint

    data = "sha256:" + "1" * 64
    job = PreferenceJob(model=LLAMA, data="x.jsonl")
    before = job_fingerprint(job, "together", data, None)
    home().mkdir(parents=True)
    (home() / "models.toml").write_text(f'[models."{LLAMA}"]\ntogether = {{ id = "new/name" }}\n')
    assert job.model_for("together") == "new/name"
    assert job_fingerprint(job, "together", data, None) == before


def test_where_a_model_can_be_trained() -> None:
    found = anydpo.providers("gpt-4.1-mini-2025-04-14")
    assert set(found) == {"openai", "azure/managed"}
    assert found["openai"].retires == date(2027, 1, 14)
    assert found["azure/managed"].retires is None  # its own calendar, which no source here has
    qwen = anydpo.providers("Qwen/Qwen3-8B")
    assert {"together", "local"} <= set(qwen)
    assert qwen["together"].as_of == date(2026, 8, 18)
    assert anydpo.providers(f"{LLAMA}-Reference")["local"].id == LLAMA  # any place's name will do
    assert "openai" not in qwen
    assert anydpo.providers("no-such-model") == {}
    assert set(anydpo.providers("some/other-model")) <= {"local", "sagemaker/training", "azure/command"}


def test_the_users_own_table() -> None:
    home().mkdir(parents=True)
    own = home() / "models.toml"
    own.write_text('[models."acme/big"]\ntogether = { id = "acme/big-tuned", context = 4096, gate = "a contract" }\n')
    assert id_at("acme/big", "together") == "acme/big-tuned"
    offer = anydpo.providers("acme/big")["together"]
    assert (offer.context, offer.gate, offer.source) == (4096, "a contract", str(own))
    own.write_text('[models."acme/big"]\ntogether = { id = "acme/big", tokens = 4096 }\n')
    with pytest.raises(JobInvalid, match=r'models.toml: models."acme/big".together: tokens'):
        id_at("acme/big", "together")
    own.write_text('[models."acme/big"]\nlicence = "x"\n')
    with pytest.raises(JobInvalid, match="no such field 'licence'"):
        id_at("acme/big", "together")
    own.write_text("[models")
    with pytest.raises(JobInvalid, match=r"models\.toml"):
        id_at("acme/big", "together")


def test_another_base_is_told() -> None:
    table = {"openai": "gpt-4.1-mini-2025-04-14", "together": f"{LLAMA}-Reference", "default": LLAMA}
    assert other_base(table, "together", f"{LLAMA}-Reference") is None  # the same weights
    assert "another base" in str(other_base(table, "openai", "gpt-4.1-mini-2025-04-14"))
    assert other_base(LLAMA, "together", f"{LLAMA}-Reference") is None
    assert other_base({"openai": "gpt-4.1-mini-2025-04-14"}, "openai", "gpt-4.1-mini-2025-04-14") is None
    assert same_weights(LLAMA, f"{LLAMA}-Reference")
    assert not same_weights("Qwen/Qwen3-8B", "Qwen/Qwen3-4B")
