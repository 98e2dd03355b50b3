import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from markdown_it import MarkdownIt

from leaderboards.board.entry import Entry
from leaderboards.board.sample import Sample
from leaderboards.comparison.compare import Comparison, compare_runs, to_json, to_markdown
from leaderboards.comparison.flips import examples, flips
from leaderboards.comparison.format_loss import explain, format_of
from support.errors import CompareError
from tasks.metric import mean_of
from tests.leaderboards.answered import ACCURACY, COVERAGE, RATING, TASK, by_id, closed, loader, metric, share
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


# -- format or ability


@pytest.mark.parametrize(
    ("said", "knew", "reading"),
    (
        ((85, 60), (85, 85), "format loss"),
        ((85, 60), (85, 60), "ability loss"),
        ((85, 40), (85, 70), "format and ability loss"),
        ((85, 85), (85, 70), "hidden loss"),
        ((60, 85), (60, 85), "ability gain"),
        ((60, 85), (85, 85), "format gain"),
        ((70, 70), (60, 80), "hidden gain"),
        ((85, 85), (85, 85), "no change"),
        ((85, 84), (85, 86), "no change"),
    ),
)
def test_what_fell_tells_format_from_ability(
    entry: Entry, said: tuple[int, int], knew: tuple[int, int], reading: str
) -> None:
    before, after = (closed(share(one), share(other)) for one, other in zip(said, knew, strict=True))
    found = compared(entry, before, after).formats[0]
    assert found.reading == reading
    assert f"{said[0]}.0 → {said[1]}.0%" in explain(found)
    assert f"{knew[0]}.0 → {knew[1]}.0" in explain(found) or reading == "no change"


def test_a_fall_beside_one_that_is_just_not_significant_is_no_format_loss(entry: Entry) -> None:
    rng = np.random.default_rng(3)
    said = [list(rng.random(200) < 0.8), list(rng.random(200) < 0.65)]
    knew = [list(rng.random(200) < 0.8), list(rng.random(200) < 0.72)]
    found = compared(
        entry, *(closed([bool(x) for x in s], [bool(x) for x in k]) for s, k in zip(said, knew, strict=True))
    ).formats[0]
    assert (found.generation.outcome, found.next_token and found.next_token.outcome) == ("worse", "not separable")
    assert found.reading == "loss, undecided"


def test_without_next_tokens_a_fall_is_not_told_apart(entry: Entry) -> None:
    found = compared(entry, closed(share(85), share(85)), closed(share(60))).formats[0]
    assert (found.reading, found.next_token, found.gap) == ("not told", None, None)
    assert "cannot be told apart" in explain(found)


def test_both_scores_are_of_the_questions_that_have_next_tokens_on_both_sides(entry: Entry) -> None:
    before, after = closed(share(85), share(85)), closed(share(60), share(60))
    bare = [replace(sample, records={"accuracy": sample.records["accuracy"]}) for sample in after]
    half = [bare[i] if i < 100 else sample for i, sample in enumerate(after)]
    found = format_of(entry, by_id(before), by_id(half), resamples=200)
    assert found is not None
    assert found.next_token is not None
    assert found.generation.images == found.next_token.images == 100
    assert found.unparsed.images == 200


def test_answers_that_grew_long_and_unreadable_are_named(entry: Entry) -> None:
    found = compared(entry, closed(share(85), share(85)), closed(share(60), share(85), words=12)).formats[0]
    assert (found.unparsed.base, found.unparsed.other) == (0, 40)
    assert found.yes_rate is not None
    assert found.true_yes == 50
    assert "0.0 → 40.0% of the answers cannot be read." in explain(found)
    assert "Answers have 1.0 → 12.0 words." in explain(found)


def test_a_lean_to_yes_is_named(entry: Entry) -> None:
    right = [True] * 200
    says_yes = [
        index % 2 == 0 or index % 10 == 1 for index in range(200)
    ]  # right where yes is, and at a fifth of the others
    words = explain(compared(entry, closed(right, right), closed(says_yes, right)).formats[0])
    assert "50.0 → 90.0% of the answers say yes; 50.0% should." in words


def test_the_length_of_an_answer_that_was_stopped_is_not_counted(entry: Entry) -> None:
    before = closed(share(85), share(85))
    stopped = [replace(sample, cut=int(sample.id) % 4 == 0) for sample in closed(share(85), share(85), words=3)]
    found = format_of(entry, by_id(before), by_id(stopped), resamples=200)
    assert found is not None
    assert found.length is not None
    assert (found.length.images, found.stopped) == (150, 50)
    assert "(of 150; 50 were stopped once decided)" in explain(found)
    everything = format_of(entry, by_id(before), by_id(closed(share(85), words=3, cut=True)), resamples=200)
    assert everything is not None
    assert everything.length is None


def test_a_task_of_ratings_has_no_format(entry: Entry) -> None:
    assert format_of(entry, by_id(rated([1, 2])), by_id(rated([1, 3]))) is None


# -- flips


def rated(ratings: Sequence[int | None], *, run: str = "run") -> list[Sample]:
    return [
        Sample(
            run=run,
            task="mmhal",
            id=str(index),
            image=f"i{index}",
            prompt="What is it?",
            answer=f"A thing {rating}.",
            records={} if rating is None else {"score": {"image": f"i{index}", "type": "holistic", "rating": rating}},
            reply=None if rating is None else f"Rating: {rating}",
        )
        for index, rating in enumerate(ratings)
    ]


def test_answers_flip_between_right_and_wrong(entry: Entry) -> None:
    before, after = by_id(closed([True, True, False, False, True])), by_id(closed([True, False, True, False, None]))
    found = flips(entry, before, after, ACCURACY)
    assert [flip.kind for flip in found] == ["still right", "broken", "fixed", "still wrong", "unscored"]
    assert (found[1].before.mark, found[1].after.mark, found[1].category) == ("right", "wrong", "a")
    assert found[4].after.text is None


def test_ratings_flip_by_what_the_metric_gives_them(entry: Entry) -> None:
    judged = replace(entry, task="mmhal", metric="score", unit="0-6")
    found = flips(judged, by_id(rated([2, 6, 4, 1, 3])), by_id(rated([3, 5, 4, 1, None])), RATING)
    assert [flip.kind for flip in found] == ["fixed", "broken", "still right", "still wrong", "unscored"]
    assert (found[0].after.mark, found[0].after.reply, found[0].category) == ("rating 3", "Rating: 3", "holistic")


def test_a_flip_is_of_the_metric_asked_for(entry: Entry) -> None:
    def described(covered: int, hallucinated: int) -> dict[str, Sample]:
        record = {"image": "i0", "covered": covered, "objects": 4, "hallucinated": hallucinated}
        (sample,) = closed([True])
        return {"0": replace(sample, records={"coverage": record})}

    coverage = replace(entry, metric="coverage", headline=False)
    (found,) = flips(coverage, described(2, 1), described(3, 2), COVERAGE)
    assert (found.kind, found.before.mark, found.after.mark) == ("fixed", "coverage 50.0", "coverage 75.0")


def test_flips_are_counted_by_category_and_none_is_lost(entry: Entry) -> None:
    rng = np.random.default_rng(1)
    before, after = (closed([bool(x) for x in rng.random(100) < 0.5]) for _ in range(2))
    found = compared(entry, before, after)
    whole, *parts = found.tallies
    assert [part.category for part in parts] == ["a", "b"]
    assert whole.questions == 100
    for kind, count in whole.counts.items():
        assert count == sum(part.counts[kind] for part in parts) == sum(flip.kind == kind for flip in found.flips)


def test_examples_are_taken_from_each_category_in_turn(entry: Entry) -> None:
    found = compared(entry, closed([True] * 12), closed([False] * 12)).flips
    assert [flip.category for flip in examples(found, "broken", 4)] == ["a", "b", "a", "b"]
    assert len(examples(found, "broken", 99)) == 12
    assert examples(found, "fixed", 4) == []


# -- the comparison


def test_verdicts_are_of_the_questions_both_were_asked(entry: Entry) -> None:
    before, after = closed([True] * 60), closed([False] * 40)
    found = compared(entry, before, after)
    verdict = found.changes[0].verdict
    assert verdict is not None
    assert (verdict.outcome, verdict.images, verdict.base, verdict.other) == ("worse", 40, 100, 0)
    assert "pope: 20 questions are in one log only; compared are the 40 others" in found.notes


def test_headlines_are_adjusted_among_themselves(entry: Entry) -> None:
    """Nineteen parts of a benchmark must not cost its headline the verdict."""
    before, after = closed([True] * 60), closed([True] * 52 + [False] * 8)
    logs = loader(
        old=[
            replace(s, records={**s.records} | {f"part{n}": s.records["accuracy"] for n in range(19)}) for s in before
        ],
        new=after,
    )
    parts = [replace(entry, metric=f"part{n}", headline=False) for n in range(19)]

    def run(entries: list[Entry]) -> Comparison:
        now = [replace(e, run="new", model="b") for e in entries]
        return compare_runs(
            entries, now, samples=(logs, logs), metrics=lambda t, m: ACCURACY, models=("a", "b"), resamples=500
        )

    alone, among = run([entry]), run([entry, *parts])
    assert alone.changes[0].verdict == among.changes[0].verdict
    assert alone.changes[0].verdict is not None
    assert alone.changes[0].verdict.outcome == "worse"


def test_what_has_no_partner_is_named(entry: Entry) -> None:
    mme = replace(entry, task="mme", run="new", model="b")
    judged = replace(entry, task="mmhal", judge="gpt-4")
    found = compare_runs(
        [entry, judged],
        [replace(entry, run="new", model="b"), mme, replace(judged, model="b", judge="gpt-5")],
        samples=(loader(), loader()),
        metrics=metric,
        models=("a", "b"),
    )
    assert "mme accuracy: only after" in found.notes
    assert (
        "mmhal accuracy: not of one kind: version 1, judge gpt-4, unit %; version 1, judge gpt-5, unit %" in found.notes
    )
    assert [(change.verdict, change.why) for change in found.changes] == [(None, "no samples of one side")]


def test_what_was_asked_differently_is_named(entry: Entry) -> None:
    old = replace(entry, provenance={"task": "0a", "prompts": "own"})
    new = replace(entry, run="new", model="b", provenance={"task": "0b", "prompts": "official"})
    found = compare_runs([old], [new], samples=(loader(), loader()), metrics=metric)
    assert found.notes == [
        "pope: digest of the task's prompts and rules was '0a', is '0b'",
        "pope: whose prompts the judge was asked in was 'own', is 'official'",
    ]


@pytest.mark.parametrize(
    ("models", "words"),
    (
        (("aa", "b"), "no scores of model 'aa' (did you mean 'a'?); known: a"),
        (None, "after: name the model to compare; there are 'b', 'c'"),
        (("a", "c"), "'a' and 'c' have no score in common: pope accuracy: only before; mme accuracy: only after"),
    ),
)
def test_sides_that_cannot_be_compared_are_refused_in_one_line(
    entry: Entry, models: tuple[str, str] | None, words: str
) -> None:
    now = [replace(entry, model="b"), replace(entry, model="c", task="mme")]
    with pytest.raises(CompareError) as raised:
        compare_runs([entry], now, samples=(loader(), loader()), metrics=metric, models=models)
    assert str(raised.value) == words


@pytest.mark.parametrize(
    ("after", "words"),
    (
        (
            [replace(sample, image="elsewhere") for sample in closed(share(80))],
            "sample '0' was about image 'i0', is about 'elsewhere'",
        ),
        (closed(share(80)) * 2, "run new logs a sample of pope twice"),
        (closed([None] * 200), "no image is in both sets of records"),
    ),
)
def test_a_log_that_does_not_fit_leaves_its_metric_without_a_verdict(
    entry: Entry, after: list[Sample], words: str
) -> None:
    change = compared(entry, closed(share(80)), after).changes[0]
    assert (change.verdict, change.why) == (None, words)


def test_the_text_has_every_part_and_no_word_of_a_model_is_markup(entry: Entry) -> None:
    evil = "x | <script>alert(1)</script> ![i](http://e.org/i.png) **b**\n\n# no heading `code`"
    before = [replace(s, answer=evil, prompt=evil) for s in closed([True] * 30, [True] * 30)]
    after = [replace(s, answer=evil) for s in closed([False] * 30, [True] * 30)]
    new = replace(entry, run="new", model=evil)
    logs = loader(old=before, new=after)
    text = to_markdown(compare_runs([entry], [new], samples=(logs, logs), metrics=metric, resamples=500))
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    assert [
        t.content
        for t in tokens
        if t.type == "inline" and t.content in ("Scores", "Format or ability?", "Flips", "Examples")
    ] == [*("Scores", "Format or ability?", "Flips", "Examples")]
    assert sum(t.type == "heading_open" for t in tokens) == 6  # title, four parts, one kind of flip
    kinds = {child.type for t in tokens for child in t.children or []}
    assert kinds <= {"text", "text_special", "strong_open", "strong_close", "softbreak"}
    assert "html_block" not in {t.type for t in tokens}


def test_more_of_a_metric_without_better_is_higher(entry: Entry) -> None:
    rate = replace(entry, metric="yes_rate", headline=False, higher_is_better=False)
    logs = loader(
        old=[replace(s, records={"yes_rate": {"image": s.image, "n": 0}}) for s in closed([True] * 60)],
        new=[replace(s, records={"yes_rate": {"image": s.image, "n": 1}}) for s in closed([True] * 60)],
    )
    found = compare_runs(
        [rate],
        [replace(rate, run="new", model="b")],
        samples=(logs, logs),
        metrics=lambda t, m: mean_of("n", 100),
        resamples=500,
    )
    assert "↑ higher" in to_markdown(found)
    assert to_json(found)["changes"][0]["verdict"]["outcome"] == "higher"


def test_json_is_whole_and_lists_every_flip(entry: Entry) -> None:
    found = json.loads(
        json.dumps(
            to_json(compared(entry, closed(share(85), share(85)), closed(share(60), share(85)))), allow_nan=False
        )
    )
    assert found["changes"][0]["verdict"]["outcome"] == "worse"
    assert found["formats"][0]["reading"] == "format loss"
    assert [flip["kind"] for flip in found["flips"]] == ["broken"] * 50
    assert found["flips"][0]["before"]["text"] in ("yes", "no")
