import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from leaderboards.board.board import Board
from leaderboards.board.entry import SCHEMA_VERSION, Entry, from_json, to_json
from leaderboards.board.sample import JudgeRepeat, from_parquet, to_parquet
from leaderboards.board.schemas import IMPORTED, MEASURED, NAMES, lacking, schema
from leaderboards.views.published import PUBLISHED
from support.errors import UnknownName
from tests.leaderboards.makers import MakeEntry, MakeSample

jsonschema: Any = pytest.importorskip("jsonschema")


def fits(data: object, name: str) -> bool:
    found: bool = jsonschema.Draft202012Validator(schema(name)).is_valid(data)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_every_schema_is_one(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schema(name))


def test_an_unknown_schema_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        UnknownName, match=r"unknown schema 'runs' \(did you mean 'run'\?\); known: published, run, sample"
    ):
        schema("runs")


def test_what_the_board_writes_fits_the_schema(tmp_path: Path, make_entry: MakeEntry, make_sample: MakeSample) -> None:
    board = Board(tmp_path)
    board.add(
        [make_entry(), make_entry(metric="other", value=None, low=None, high=None, judge="gpt", limit=8)],
        [make_sample()],
    )
    board.add([make_entry(run="run-2")], [])
    files = sorted(tmp_path.glob("*.json"))
    assert len(files) == 2
    assert all(fits(json.loads(file.read_text()), "run") for file in files)


def test_schema_and_entry_have_the_same_fields_and_version() -> None:
    described = schema("run")["$defs"]["entry"]
    names = {field.name for field in fields(Entry)}
    assert described["properties"].keys() == names
    assert set(described["required"]) == names - {"unparsed", "empty", "guards", "sequence"}
    assert schema("run")["properties"]["schema"] == {"const": SCHEMA_VERSION, "description": "Version of this format."}


@pytest.mark.parametrize(
    ("field", "value"),
    (
        ("run", "../escape"),
        ("run", ".hidden"),
        ("run", "x" * 129),
        ("model", 3),
        ("model", ""),
        ("version", 1),
        ("unit", None),
        ("judge", 3),
        ("value", "19.3"),
        ("value", True),
        ("low", "15"),
        ("samples", 3.5),
        ("samples", None),
        ("samples", -1),
        ("failed", -1),
        ("limit", 0),
        ("seconds", None),
        ("seconds", -1.0),
        ("cost", -0.01),
        ("higher_is_better", 1),
        ("headline", "yes"),
        ("created", "2026-01-31T12:00:00+02:00"),
        ("created", "2026-01-31T12:00:00"),
        ("provenance", {"seed": 0}),
        ("provenance", "seed 0"),
        ("colour", "red"),
    ),
)
def test_what_an_entry_refuses_the_schema_refuses(make_entry: MakeEntry, field: str, value: Any) -> None:
    data = to_json(make_entry())
    run = {"schema": SCHEMA_VERSION, "run": "run-1", "samples": None, "entries": [data]}
    assert fits(run, "run")
    bad = data | {field: value}
    assert not fits(run | {"entries": [bad]}, "run")
    with pytest.raises(ValueError, match=field):
        from_json(bad, where="x.json")


def test_a_logs_rows_fit_the_schema_column_by_column(make_sample: MakeSample) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    again = (
        JudgeRepeat(records={"CHAIR_s": {"image": "scene-0", "hallucinated": 1}}, reply="3"),
        JudgeRepeat(records={}, reply=None),
    )
    samples = [
        make_sample(reply="4", cut=True, image_digest="ab" * 32, repeats=again),
        make_sample(id="1", answer=None, records={}),
    ]
    table = pq.read_table(pa.BufferReader(to_parquet(samples)))
    assert table.column_names == list(schema("sample")["properties"])
    rows = table.to_pylist()
    assert all(fits(row, "sample") for row in rows)
    inside = schema("sample")["properties"]["repeats"]["contentSchema"]
    assert jsonschema.Draft202012Validator(inside).is_valid(json.loads(rows[0]["repeats"]))
    assert rows[1]["repeats"] is None


def test_logs_from_before_a_column_was_added_are_read(make_sample: MakeSample) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    repeats = (JudgeRepeat(records={}, reply="?"),)
    whole = {"cut": True, "image_digest": "ab", "repeats": repeats, "reason": "content filter", "document": "{}"}
    whole |= {"raw": "<think>?</think> No", "reasoning": "?"}
    later = list(whole)
    table = pq.read_table(pa.BufferReader(to_parquet([make_sample(**whole)])))
    for lacking_columns in (later[place:] for place in range(len(later))):
        sink = pa.BufferOutputStream()
        pq.write_table(table.drop_columns(lacking_columns), sink)
        there = {name: value for name, value in whole.items() if name not in lacking_columns}
        assert from_parquet(bytes(sink.getvalue())) == [make_sample(**there)]
    sink = pa.BufferOutputStream()
    pq.write_table(table.drop_columns(["answer"]), sink)
    with pytest.raises(ValueError, match="columns must be"):
        from_parquet(bytes(sink.getvalue()))


def test_the_published_tables_fit_their_schema() -> None:
    assert fits(json.loads(PUBLISHED.read_text(encoding="utf-8")), "published")
    assert not fits([{"source": "x", "rows": {"m": {"no_dot": 1.0}}}], "published")


def test_every_fact_asked_for_is_described() -> None:
    described = schema("run")["$defs"]["provenance"]["properties"]
    assert set(MEASURED) | set(IMPORTED) <= described.keys()
    assert all(fact["description"] for fact in described.values())


def test_an_entry_says_what_it_lacks(make_entry: MakeEntry) -> None:
    whole = dict.fromkeys(MEASURED, "x")
    assert lacking(make_entry(provenance=whole)) == []
    assert lacking(make_entry(provenance={key: "x" for key in whole if key not in ("weights", "seed")})) == [
        "weights",
        "seed",
    ]
    assert lacking(make_entry(provenance={"imported": "lm-eval", "source": "f"})) == ["source digest"]
