"""Whose wording questions had: shown of every model, and of each score that stands beside others asked otherwise."""

import csv
import io
import json
from dataclasses import replace

from leaderboards.board.entry import Entry
from leaderboards.views.asked_apart import asked_apart, protocols_of
from leaderboards.views.html_page import page
from leaderboards.views.markdown_report import leaderboard, to_csv, to_json
from tests.leaderboards.makers import MakeEntry


def asked_by(entry: Entry, protocol: str | None, **more: str) -> Entry:
    named = {} if protocol is None else {"protocol": protocol}
    return replace(entry, provenance={**entry.provenance, **named, **more})


def test_scores_of_one_column_that_were_asked_in_several_ways_say_how(make_entry: MakeEntry) -> None:
    official = asked_by(make_entry(model="official"), "llava-1.5 0123abcd")
    old = make_entry(model="old")
    bare = asked_by(make_entry(model="bare"), "bare")
    elsewhere = make_entry(model="elsewhere", provenance={"imported": "lm-eval"})
    assert asked_apart([[old, bare]]) == {}
    assert asked_apart([[official, elsewhere]]) == {}
    assert asked_apart([[official, old, elsewhere]]) == {official.key: "llava-1.5", old.key: "bare"}
    suffix = asked_by(make_entry(model="suffix"), "bare", **{"prompt suffix": " So?"})
    assert asked_apart([[bare, suffix]]) == {bare.key: "bare", suffix.key: "bare + 'So?'"}
    other = asked_by(make_entry(model="other"), "llava-1.5 99999999")
    assert asked_apart([[official, other]]) == {
        official.key: "llava-1.5 0123abcd",
        other.key: "llava-1.5 99999999",
    }


def test_a_models_protocols_are_named_with_their_tasks_where_there_are_several(make_entry: MakeEntry) -> None:
    one = asked_by(make_entry(model="a"), "llava-1.5 0123abcd")
    entries = [one, replace(one, metric="x"), make_entry(model="a", task="pope"), make_entry(model="b")]
    assert protocols_of(entries) == {"a": "llava-1.5 (scenes_chair), bare (pope)", "b": "bare"}


def test_every_view_shows_a_rows_protocol_and_where_it_differs(make_entry: MakeEntry) -> None:
    entries = [asked_by(make_entry(model="a"), "llava-1.5 0123abcd"), make_entry(model="b")]
    text = leaderboard(entries)
    assert "Protocols: a: llava-1.5; b: bare." in text
    assert "(asked by llava-1.5)" in text
    assert "(asked by bare)" in text
    assert "scores of one column were asked in several ways" in text
    rows = csv.DictReader(io.StringIO(to_csv(entries)))
    assert [row["protocol"] for row in rows] == ["llava-1.5", "bare"]
    assert [row["protocol"] for row in json.loads(to_json(entries))["entries"]] == ["llava-1.5", "bare"]
    html = page(entries, title="B")
    assert html.count("asked by llava-1.5</span>") == html.count("asked by bare</span>") == 1
    assert "Protocols: whose wording the questions had" in html


def test_where_all_were_asked_alike_no_score_says_so(make_entry: MakeEntry) -> None:
    alike = [asked_by(make_entry(model=name), "llava-1.5 0123abcd") for name in "ab"]
    text = leaderboard(alike)
    assert "Protocols: every model: llava-1.5." in text
    assert "asked by" not in text
    plain = [make_entry(model=name) for name in "ab"]
    assert "Protocols" not in leaderboard(plain)
    assert "Protocols" not in page(plain, title="B")
