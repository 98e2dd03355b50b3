"""What a leaderboard shows beside its scores."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from leaderboards.board.entry import Entry
from leaderboards.board.sample import Sample
from leaderboards.comparison.compare import Comparison, compare_runs, to_json, to_markdown
from leaderboards.comparison.compare_board import compare_board
from leaderboards.comparison.format_loss import NEXT_TOKEN
from support.errors import CompareError
from tests.leaderboards.answered import ACCURACY, TASK, closed, loader, metric, share
from tests.leaderboards.makers import MakeEntry


@pytest.fixture
def entry(make_entry: MakeEntry) -> Entry:
    return make_entry(run="old", model="a", task=TASK, metric="accuracy", higher_is_better=True, value=80.0)


def compared(
    entry: Entry, before: Sequence[Sample], after: Sequence[Sample], *, more: Sequence[Entry] = (), **changes: Any
) -> Comparison:
    new = replace(entry, run="new", model="b", **changes)
    logs = loader(old=before, new=after)
    return compare_runs([entry], [new, *more], samples=(logs, logs), metrics=metric, models=("a", "b"), resamples=1000)


def test_a_board_has_ranks_with_ties_and_differences_to_its_base(entry: Entry) -> None:
    entries = [replace(entry, run=name, model=name) for name in ("a", "b", "c")]
    logs = loader(a=closed(share(80)), b=closed(share(79)), c=closed(share(40)))
    found = compare_board(entries, samples=logs, metrics=metric, base="a")
    a, b, c = (one.key for one in entries)
    assert [str(found.ranks[key]) for key in (a, b, c)] == ["1–2", "1–2", "3"]
    assert {key: verdict.outcome for key, verdict in found.verdicts.items()} == {b: "not separable", c: "worse"}
    assert found.notes == []


def test_a_model_without_a_log_has_no_rank_and_a_log_that_does_not_fit_is_named(entry: Entry) -> None:
    entries = [replace(entry, run=name, model=name) for name in ("a", "b", "c", "d")]
    moved = [replace(sample, image="elsewhere") for sample in closed(share(80))]
    found = compare_board(
        entries[:3], samples=loader(a=closed(share(80)), b=closed(share(40))), metrics=metric, base="a"
    )
    assert {key[0] for key in found.ranks} == {"a", "b"}
    assert found.notes == []
    found = compare_board(
        entries, samples=loader(a=closed(share(80)), b=closed(share(40)), d=moved), metrics=metric, base="a"
    )
    assert (found.ranks, {key[0] for key in found.verdicts}) == ({}, {"b"})
    assert any(note.startswith("no ranks of pope accuracy: sample '0' was about image") for note in found.notes)
    assert any(note.startswith("no verdict on d by pope accuracy") for note in found.notes)


def test_a_log_that_is_lost_is_a_note_and_the_others_keep_their_ranks(entry: Entry) -> None:
    entries = [replace(entry, run=name, model=name) for name in ("a", "b", "c")]
    found = compare_board(
        entries, samples=loader(a=closed(share(80)), b=closed(share(40)), c=None), metrics=metric, base="a"
    )
    assert ({key[0] for key in found.ranks}, {key[0] for key in found.verdicts}) == ({"a", "b"}, {"b"})
    assert found.notes == ["no rank and no verdict on c by pope: run c: its sample log c.samples.parquet is missing"]
    found_between = compare_runs(
        [entry],
        [replace(entry, run="new", model="b")],
        samples=(loader(old=closed(share(80))), loader(new=None)),
        metrics=metric,
    )
    assert found_between.changes[0].why == "run new: its sample log new.samples.parquet is missing"
    assert found_between.notes == ["pope: run new: its sample log new.samples.parquet is missing"]


def test_a_log_is_read_once_for_all_columns(entry: Entry) -> None:
    read: list[str] = []

    def load(run: str) -> Sequence[Sample]:
        read.append(run)
        return closed(share(80), share(70))

    entries = [
        replace(entry, run=name, model=name, metric=of) for name in ("a", "b", "c") for of in ("accuracy", NEXT_TOKEN)
    ]
    found = compare_board(entries, samples=load, metrics=metric, base="a", only_headline=False)
    assert (sorted(read), len(found.verdicts), len(found.ranks)) == (["a", "b", "c"], 4, 6)


def test_a_verdict_against_the_base_depends_on_no_other_model_but_for_the_adjustment(entry: Entry) -> None:
    rng = np.random.default_rng(5)
    runs = {
        name: closed([bool(right) for right in rng.random(200) < skill])
        for name, skill in zip("abcd", (0.7, 0.9, 0.75, 0.65), strict=True)
    }
    entries = [replace(entry, run=name, model=name) for name in runs]
    alone = compare_board(entries[:2], samples=loader(**runs), metrics=metric, base="a").verdicts[entries[1].key]
    among = compare_board(entries, samples=loader(**runs), metrics=metric, base="a").verdicts[entries[1].key]
    assert among.p > alone.p
    assert replace(among, p=alone.p) == alone


def test_a_headline_has_one_verdict_whether_or_not_the_other_metrics_are_shown(entry: Entry) -> None:
    before, after = closed([True] * 60), closed([True] * 53 + [False] * 7)
    parts = [f"part{n}" for n in range(9)]

    def with_parts(samples: Sequence[Sample]) -> list[Sample]:
        return [replace(s, records={**s.records} | dict.fromkeys(parts, s.records["accuracy"])) for s in samples]

    entries = [
        replace(entry, run=name, model=name, metric=of, headline=of == "accuracy")
        for name in ("a", "b")
        for of in ("accuracy", *parts)
    ]
    found = [
        compare_board(
            entries,
            samples=loader(a=with_parts(before), b=with_parts(after)),
            metrics=lambda t, m: ACCURACY,
            base="a",
            only_headline=only,
        )
        for only in (True, False)
    ]
    headline = next(one.key for one in entries if one.model == "b" and one.headline)
    assert [len(one.verdicts) for one in found] == [1, 10]
    assert found[0].verdicts[headline] == found[1].verdicts[headline]
    assert found[0].verdicts[headline].outcome == "worse"
    assert {verdict.outcome for key, verdict in found[1].verdicts.items() if key != headline} == {"not separable"}


def test_a_score_whose_base_was_asked_differently_says_what_differs(entry: Entry) -> None:
    entries = [
        replace(entry, run=name, model=name, provenance={"task": "0a" if name != "c" else "0b"})
        for name in ("a", "b", "c")
    ]
    logs = loader(a=closed(share(80)), b=closed(share(40)), c=closed(share(40)))
    found = compare_board(entries, samples=logs, metrics=metric, base="a")
    assert found.protocol_differences == {entries[2].key: ["digest of the task's prompts and rules was '0a', is '0b'"]}
    assert found.notes == ["c pope: digest of the task's prompts and rules was '0a', is '0b'"]
    changed = compared(
        replace(entry, provenance={"task": "0a"}), closed(share(80)), closed(share(40)), provenance={"task": "0b"}
    )
    assert changed.changes[0].protocol_differences == ["digest of the task's prompts and rules was '0a', is '0b'"]
    assert re.search(r"▼ worse ≠ +\|", to_markdown(changed))
    assert "≠: asked or rated differently" in to_markdown(changed)
    assert to_json(changed)["changes"][0]["asked_otherwise"] == changed.changes[0].protocol_differences
    assert "≠" not in to_markdown(compared(entry, closed(share(80)), closed(share(40))))


def test_a_base_that_is_not_there_is_named_with_those_that_are(entry: Entry) -> None:
    with pytest.raises(CompareError, match=r"base model 'A' is not on the board \(did you mean 'a'\?\); known: a"):
        compare_board([entry], samples=loader(), metrics=metric, base="A")


def test_another_picture_under_the_same_id_is_another_question(entry: Entry) -> None:
    before = [replace(sample, image_digest="aa" * 32) for sample in closed(share(80))]
    same, other = ([replace(sample, image_digest=digest) for sample in before] for digest in (None, "bb" * 32))
    assert compared(entry, before, same).changes[0].verdict is not None
    change = compared(entry, before, other)
    assert (change.changes[0].verdict, change.flips, change.formats) == (None, [], [])
    assert (
        change.changes[0].why
        == f"sample '0' was about image 'i0' (digest {'aa' * 6}), is about 'i0' (digest {'bb' * 6})"
    )
