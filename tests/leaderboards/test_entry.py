import json
from typing import Any

import pytest

from leaderboards.board.entry import from_json, to_json
from tests.leaderboards.makers import MakeEntry


def test_an_entry_survives_json_unchanged(make_entry: MakeEntry) -> None:
    for entry in (
        make_entry(),
        make_entry(value=None, low=None, high=None, limit=8, judge="gpt", unscored=3, failed=1),
    ):
        assert from_json(json.loads(json.dumps(to_json(entry))), where="x.json") == entry


def test_an_unknown_key_is_named_with_its_file(make_entry: MakeEntry) -> None:
    with pytest.raises(ValueError, match=r"^x\.json: unknown key 'color'$"):
        from_json(to_json(make_entry()) | {"color": "red"}, where="x.json")


@pytest.mark.parametrize("name", ("run", "value", "unscored", "limit", "provenance"))
def test_a_missing_key_is_named_with_its_file(make_entry: MakeEntry, name: str) -> None:
    data = to_json(make_entry())
    del data[name]
    with pytest.raises(ValueError, match=rf"^x\.json: missing key '{name}'$"):
        from_json(data, where="x.json")


@pytest.mark.parametrize("data", (None, [], "entry", 3))
def test_json_that_is_no_object_is_refused(data: object) -> None:
    with pytest.raises(ValueError, match=r"^x\.json: must be a JSON object"):
        from_json(data, where="x.json")


@pytest.mark.parametrize(
    ("field", "value"),
    (
        ("run", None),
        ("run", "../escape"),
        ("run", "a/b"),
        ("run", ""),
        ("run", ".hidden"),
        ("run", "-option"),
        ("run", "line\n"),
        ("run", "ü"),
        ("run", "x" * 129),
        ("model", 3),
        ("model", ""),
        ("task", None),
        ("version", 1),
        ("unit", None),
        ("judge", 3),
        ("value", float("nan")),
        ("value", float("inf")),
        ("value", 10**400),
        ("value", "19.3"),
        ("value", True),
        ("low", float("-inf")),
        ("low", None),
        ("low", 30.0),
        ("high", float("nan")),
        ("samples", 3.0),
        ("samples", True),
        ("samples", None),
        ("samples", -1),
        ("unscored", 301),
        ("failed", -1),
        ("limit", 0),
        ("limit", 1.5),
        ("seconds", None),
        ("seconds", -1.0),
        ("cost", float("nan")),
        ("cost", -0.01),
        ("higher_is_better", 1),
        ("headline", None),
        ("headline", "yes"),
        ("created", "yesterday"),
        ("created", "2026-01-31T12:00:00"),
        ("created", "2026-01-31T12:00:00+02:00"),
        ("provenance", {"seed": 0}),
        ("provenance", {"seed": None}),
        ("provenance", "seed 0"),
    ),
)
def test_a_bad_value_is_refused_by_the_name_of_its_field(make_entry: MakeEntry, field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^x\.json: .*\b{field}\b"):
        from_json(to_json(make_entry()) | {field: value}, where="x.json")
    with pytest.raises(ValueError, match=rf"\b{field}\b"):
        make_entry(**{field: value})


def test_both_ways_to_write_utc_are_one_time(make_entry: MakeEntry) -> None:
    assert make_entry(created="2026-01-31T12:00:00Z").when == make_entry(created="2026-01-31T12:00:00+00:00").when


def test_a_boolean_or_nan_is_no_number_even_in_the_fields_looked_at_in_passing(make_entry: MakeEntry) -> None:
    assert make_entry(value=3, seconds=1, low=None, high=None).value == 3  # an integer is
    for bad in (float("nan"), True, "3"):
        with pytest.raises(ValueError, match="seconds must be"):
            make_entry(seconds=bad)


def test_a_run_is_partial_by_its_limit_or_its_data(make_entry: MakeEntry) -> None:
    assert not make_entry().partial
    assert make_entry(limit=8).partial
    assert make_entry(provenance={"rows": "partial"}).partial


@pytest.mark.parametrize(
    ("said", "known"), (("7063427072", 7063427072), ("-1", None), ("0", None), ("7B", None), ("9" * 400, None))
)
def test_a_model_has_as_many_parameters_as_its_run_recorded(
    make_entry: MakeEntry, said: str, known: int | None
) -> None:
    assert make_entry(provenance={"model size": said}).parameters == known
    assert make_entry(provenance={}).parameters is None


def test_weights_are_those_of_model_and_adapter(make_entry: MakeEntry) -> None:
    assert make_entry(provenance={}).weights is None
    assert make_entry(provenance={"weights": "a"}).weights == "a"
    assert make_entry(provenance={"weights": "a", "adapter": "b"}).weights == "a+b"
