"""One identity in every dialect, and writing then reading as the identity for every field a dialect can hold."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anydpo.data.dialect import WRITERS
from anydpo.data.pair import PreferencePair, fingerprint, in_validation
from anydpo.data.read import load
from anydpo.data.write import FieldsLost, check_fits, file_notes, lines, write, writer_of
from anydpo.errors import DataInvalid

letters = st.characters(exclude_categories=["Cs"])
words = st.text(letters, min_size=1, max_size=30).filter(lambda t: t.strip())
arguments = st.dictionaries(
    st.text(letters, min_size=1, max_size=5),
    st.one_of(st.integers(-(2**53), 2**53), st.booleans(), words, st.lists(st.integers(0, 9), max_size=3)),
    max_size=3,
)


@st.composite
def tool_calls(draw: st.DrawFn) -> dict[str, Any]:
    text = json.dumps(draw(arguments), ensure_ascii=False, separators=(",", ":"))
    call = {"id": draw(st.sampled_from(["call_a", "x7"])), "type": "function"}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{**call, "function": {"name": "f", "arguments": text}}],
    }


def said(role: str) -> st.SearchStrategy[dict[str, Any]]:
    return words.map(lambda text: {"role": role, "content": text})


@st.composite
def pairs(draw: st.DrawFn, writer: str = "canonical", *, plain: bool = False) -> PreferencePair:
    """A pair with whatever the writer's dialect can say; `plain` ones are a question and two texts."""
    refused = WRITERS[writer].refuses
    prompt = [draw(said("user"))]
    chosen, rejected = draw(said("assistant")), draw(said("assistant"))
    tools: tuple[dict[str, Any], ...] | None = None
    if not plain:
        if writer in PICTURES and draw(st.booleans()):
            prompt = [draw(shown(writer))]
        if "multi_turn" not in refused and draw(st.booleans()):
            prompt = [draw(said("user")), draw(said("assistant")), *prompt]
        if "system" not in refused and draw(st.booleans()):
            prompt = [draw(said("system")), *prompt]
        if "tools" not in refused and draw(st.booleans()):
            chosen = draw(tool_calls())
            tools = ({"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}},)
    if (chosen.get("content") or "").strip() == rejected["content"].strip():
        rejected = {"role": "assistant", "content": rejected["content"] + " not"}
    weight = draw(st.sampled_from([1.0, 0.5, 2.0, 0.1])) if not plain else 1.0
    margin = draw(st.one_of(st.none(), st.floats(-9, 9))) if not plain else None
    meta = {"annotators": ["a", "b"]} if draw(st.booleans()) else {}
    return PreferencePair(tuple(prompt), (chosen,), (rejected,), tools, weight, margin, meta)


PICTURES = {
    "canonical": ["a.png", "https://x.example/b.jpg"],
    "trl_chat": ["a.png", "https://x.example/b.jpg"],
    "nova": ["s3://bucket/a.png", "s3://bucket/folder/b.jpg"],
    "together": ["data:image/png;base64,iVBORw0KGgo=", "data:image/jpeg;base64,/9j/4AAQ"],
}


@st.composite
def shown(draw: st.DrawFn, writer: str) -> dict[str, Any]:
    """A question with one or two pictures at any place."""
    pictures = draw(st.lists(st.sampled_from(PICTURES[writer]), min_size=1, max_size=2))
    parts = [{"type": "text", "text": draw(words)}, *({"type": "image", "image": p} for p in pictures)]
    return {"role": "user", "content": draw(st.permutations(parts))}


def holds(writer: str, feature: str) -> bool:
    return feature not in WRITERS[writer].loses | WRITERS[writer].refuses


def kept(writer: str, pair: PreferencePair) -> PreferencePair:
    """What a dialect can hold of a pair, said from its table."""
    return dataclasses.replace(
        pair,
        weight=pair.weight if holds(writer, "weight") else 1.0,
        margin=pair.margin if holds(writer, "margin") else None,
    )


def lines_of(writer: str, given_pairs: list[PreferencePair]) -> list[bytes]:
    """The lines a writer makes, after the checks that precede them."""
    to = writer_of(writer)
    check_fits(load([pair.to_dict() for pair in given_pairs], "canonical"), to)
    return list(lines(given_pairs, to))


def read_back(written: list[bytes]) -> list[PreferencePair]:
    return list(load([json.loads(line) for line in written]))


fast = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.mark.parametrize("writer", sorted(WRITERS))
def test_writing_and_reading_is_the_identity_and_writing_again_the_same_bytes(writer: str, full: bool) -> None:
    @settings(fast, max_examples=2300 if full else 115)
    @given(st.lists(pairs(writer), min_size=1, max_size=3))
    def check(given_pairs: list[PreferencePair]) -> None:
        written = lines_of(writer, given_pairs)
        found = read_back(written)
        assert found == [kept(writer, pair) for pair in given_pairs]
        assert lines_of(writer, found) == written
        if writer == "canonical":
            assert [p.meta.get("annotators") for p in found] == [p.meta.get("annotators") for p in given_pairs]

    check()


@pytest.mark.parametrize("writer", sorted(WRITERS))
@given(st.lists(pairs(plain=True), min_size=1, max_size=4))
@settings(fast, max_examples=20)
def test_plain_pairs_survive_every_dialect_on_disk(
    tmp_path: Path, writer: str, given_pairs: list[PreferencePair]
) -> None:
    path = tmp_path / "x.jsonl"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FieldsLost)
        write(load([pair.to_dict() for pair in given_pairs], "canonical"), path, writer)
    found = list(load(path))
    assert found == given_pairs
    assert fingerprint(found) == fingerprint(given_pairs)


@given(st.lists(pairs(), min_size=1, max_size=4))
@fast
def test_fingerprint_is_what_the_contract_says(given_pairs: list[PreferencePair]) -> None:
    """Section 5, computed a second way: the standard library's JSON, absent keys omitted, arguments parsed."""

    def row(pair: PreferencePair) -> dict[str, Any]:
        def turns(messages: Any) -> list[Any]:
            made = []
            for message in messages:
                copied = json.loads(json.dumps(message))
                for call in copied.get("tool_calls", ()):
                    call["function"]["arguments"] = json.loads(call["function"]["arguments"])
                made.append(copied)
            return made

        made: dict[str, Any] = {side: turns(getattr(pair, side)) for side in ("prompt", "chosen", "rejected")}
        if pair.tools is not None:
            made["tools"] = list(pair.tools)
        if pair.weight != 1.0:
            made["weight"] = pair.weight
        if pair.margin is not None:
            made["margin"] = pair.margin
        return made

    lines = [json.dumps(row(p), sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n" for p in given_pairs]
    assert fingerprint(given_pairs) == "sha256:" + hashlib.sha256("".join(lines).encode()).hexdigest()


def test_the_same_pairs_have_one_fingerprint(tmp_path: Path) -> None:
    rows = [{"prompt": f"Question {i}?", "chosen": f"Yes, {i}.", "rejected": "No."} for i in range(50)]
    source = load(rows)
    seen = {source.fingerprint}
    for writer in WRITERS:
        for suffix in ("", ".gz", ".zst"):
            path = tmp_path / f"{writer}.jsonl{suffix}"
            written = source.write(path, writer)
            assert (written.pairs, written.lost) == (50, {})
            seen.add(load(path).fingerprint)
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("writer", "field", "word"),
    [
        ("openai", {"weight": 2.0}, "a weight (1 pairs)"),
        ("together", {"margin": 1.5}, "a margin (1 pairs)"),
        ("trl_chat", {"meta": {"annotators": ["x"]}}, "annotation data (1 pairs)"),
    ],
)
def test_what_a_dialect_cannot_hold_is_named_before_writing(
    tmp_path: Path, writer: str, field: dict[str, Any], word: str
) -> None:
    pair = {
        "prompt": [{"role": "user", "content": "Hi"}],
        "chosen": [{"role": "assistant", "content": "Yes"}],
        "rejected": [{"role": "assistant", "content": "No"}],
        **field,
    }
    source = load([pair], "canonical")
    with pytest.warns(FieldsLost) as said_first:
        written = source.write(tmp_path / "x.jsonl", writer)
    assert word in str(said_first[0].message)
    assert sum(written.lost.values()) == 1


def test_what_cannot_be_said_at_all_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    row = {"prompt": turns, "chosen": "yes", "rejected": "no"}
    with pytest.raises(DataInvalid, match="1 with earlier turns") as found:
        load([row]).write(tmp_path / "x.jsonl", "trl")
    assert "trl_chat" in (found.value.hint or "")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DataInvalid, match="cannot write the format 'csv'"):
        load([row]).write(tmp_path / "x.csv", "csv")


def test_nothing_half_written_is_left(tmp_path: Path) -> None:
    """The source breaks in the middle, or the folder is not there."""
    path = tmp_path / "source.jsonl"
    path.write_text(json.dumps({"prompt": "a", "chosen": "b", "rejected": "c"}) + "\n")
    source = load(path)
    path.write_text(path.read_text() + "x")
    with pytest.raises(DataInvalid, match="changed since it was loaded"):
        source.write(tmp_path / "out.jsonl", "openai")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source.jsonl"]
    with pytest.raises(DataInvalid, match="no such folder"):
        load(path, on_bad="skip").write(tmp_path / "no" / "out.jsonl", "openai")


def test_a_full_disk_is_an_error_and_no_file() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full to stand for a full disk")
    rows = [{"prompt": "a", "chosen": "b" * 100, "rejected": "c"}] * 40000
    with pytest.raises(OSError, match="No space left"):
        load(rows).write("/dev/full", "openai")


def test_a_side_of_a_split_depends_on_bytes_and_seed_only() -> None:
    """Written down: whoever computes it anew gets these sides."""
    prompt = ({"role": "user", "content": "How do I return the shoes?"},)
    line = b'[{"content":"How do I return the shoes?","role":"user"}]'
    for seed in range(5):
        place = int.from_bytes(hashlib.sha256(str(seed).encode() + b"\n" + line).digest()[:8], "big") / 2**64
        assert in_validation(prompt, place + 1e-9, seed)
        assert not in_validation(prompt, place - 1e-9, seed)


def test_what_only_a_late_row_has_is_not_lost(tmp_path: Path) -> None:
    """Row 301 is the first with a system message, or with a picture; the sample that tells the dialect ends at 200."""
    ask, shown_one = (
        {"role": "user", "content": "Hi"},
        {"role": "user", "content": [PICTURE, {"type": "text", "text": "?"}]},
    )
    plain = {"prompt": [ask], "chosen": "Hello there", "rejected": "What"}
    for writer, late in (("sagemaker", [{"role": "system", "content": "Be kind."}, ask]), ("trl_chat", [shown_one])):
        source = load([plain] * 300 + [{**plain, "prompt": late}])
        source.write(tmp_path / "x.jsonl", writer)
        found = load(tmp_path / "x.jsonl")
        assert found.fingerprint == source.fingerprint
        assert found.skipped == {}


PICTURE = {"type": "image", "image": "a.png"}

TWO = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
LATE = [*TWO, {"role": "system", "content": "c"}, {"role": "user", "content": "d"}]


def asked(prompt: Any, **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "chosen": "yes", "rejected": "no", **more}


def image(uri: str, role: str = "user") -> list[dict[str, Any]]:
    return [{"role": role, "content": [{"type": "image", "image": uri}, {"type": "text", "text": "?"}]}]


@pytest.mark.parametrize(
    ("writer", "row", "reason"),
    [
        ("openai", asked([{"role": "developer", "content": "a"}, TWO[0]]), "the role 'developer' is not in OpenAI's"),
        ("azure", asked([{"role": "developer", "content": "a"}, TWO[0]]), "the role 'developer' is not in Azure's"),
        ("together", asked([{"role": "function", "name": "f", "content": "a"}, TWO[0]]), "the role 'function'"),
        ("together", asked(image("a.png")), "base64 data URLs"),
        ("together", asked(image("data:image/gif;base64,AAAA")), "base64 data URLs of PNG, JPEG or WEBP"),
        ("together", asked(image("data:image/png;base64,A*A")), "not valid base64"),
        ("together", asked(image("data:image/png;base64,AAAA") * 11), "at most 10 images"),
        ("together", asked(image("data:image/png;base64," + "A" * 15_000_000)), "an image may have 10 MB"),
        ("nova", asked(LATE), "a system message has to be the first one"),
        ("nova", asked(image("a.png")), "images have to lie on S3"),
        ("nova", asked(image("s3://b/a.png") * 11), "at most 10 images"),
        ("nova", asked([{"role": "developer", "content": "a"}, TWO[0]]), "the role 'developer' is not in Nova's"),
        ("sagemaker_chat", asked(LATE), "a system message has to be the first one"),
        ("sagemaker", asked([{"role": "developer", "content": "a"}, TWO[0]]), "one user message"),
        ("trl", asked([{"role": "assistant", "content": "a"}]), "one user message"),
    ],
)
def test_what_a_provider_refuses_is_named_with_its_rows(
    tmp_path: Path, writer: str, row: dict[str, Any], reason: str
) -> None:
    """Limits of the fact sheets: roles, places and kinds of images, order of system messages."""
    with pytest.raises(DataInvalid) as found:
        load([asked("fine?"), row]).write(tmp_path / "x.jsonl", writer)
    assert reason in found.value.message or "cannot hold 1 with" in found.value.message
    assert list(tmp_path.iterdir()) == []
    if reason in found.value.message:
        assert "rows:2" in found.value.message


@pytest.mark.parametrize(
    ("writer", "asks"), [("openai", "OpenAI asks for at least 10 pairs; these are 3"), ("azure", "Azure asks")]
)
def test_too_few_pairs_is_a_note(tmp_path: Path, writer: str, asks: str) -> None:
    assert asks in load([asked(f"{i}?") for i in range(3)]).write(tmp_path / "x.jsonl", writer).notes[0]
    assert load([asked(f"{i}?") for i in range(10)]).write(tmp_path / "x.jsonl", writer).notes == ()
    assert list(file_notes("nova", 10, 2 << 30)) == [
        "2,147,483,648 bytes are more than Amazon Nova takes (1 GiB where it is registered as a data set)"
    ]


def test_lines_of_amazon_are_as_its_guide_writes_them() -> None:
    """Nova: the candidates of the last turn; open weights: text with `system`, or two whole conversations."""
    row = asked([{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}])
    pair = next(iter(load([row])))
    assert writer_of("nova").row(pair) == {
        "schemaVersion": "bedrock-conversation-2024",
        "system": [{"text": "Be kind."}],
        "messages": [
            {"role": "user", "content": [{"text": "Hi"}]},
            {
                "role": "assistant",
                "candidates": [
                    {"content": [{"text": "yes"}], "preferenceLabel": "preferred"},
                    {"content": [{"text": "no"}], "preferenceLabel": "non-preferred"},
                ],
            },
        ],
    }
    assert writer_of("sagemaker").row(pair) == {
        "system": "Be kind.", "prompt": "Hi", "chosen": "yes", "rejected": "no",
    }  # fmt: skip
    chat = writer_of("sagemaker_chat").row(pair)
    assert [m["role"] for m in chat["chosen"]] == ["system", "user", "assistant"]
    assert chat["chosen"][:2] == chat["rejected"][:2]
    picture = writer_of("nova").row(next(iter(load([asked(image("s3://b/a.jpg"))]))))
    assert picture["messages"][0]["content"][0] == {
        "image": {"format": "jpeg", "source": {"s3Location": {"uri": "s3://b/a.jpg"}}}
    }


@pytest.mark.parametrize("scanned", [False, True])
@pytest.mark.parametrize("dialect", ["sagemaker_chat", "nova"])
def test_a_name_or_a_train_of_thought_is_never_dropped_in_silence(dialect: str, scanned: bool, tmp_path: Path) -> None:
    """One question and one answer each, but a message has a field that the dialect has no place for."""
    rows = [
        {
            "prompt": [{"role": "user", "content": "Who?", "name": "Ada"}],
            "chosen": [{"role": "assistant", "content": "You.", "reasoning_content": "Ada asks."}],
            "rejected": [{"role": "assistant", "content": "I."}],
        }
    ]
    dataset = load(rows)
    if scanned:
        assert len(dataset) == 1
    with pytest.raises(DataInvalid, match=r"1 pair: messages hold role and content only.*\(rows:1\)"):
        dataset.write(tmp_path / "out.jsonl", dialect)
    assert not (tmp_path / "out.jsonl").exists()
