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
from leaderboards.comparison.compare_board import compare_board
from leaderboards.comparison.flips import examples, flips
from leaderboards.comparison.format_loss import NEXT_TOKEN, explain, format_of
from leaderboards.comparison.paired_logs import Loader
from leaderboards.statistics.resampling import CountsMetric
from support.errors import CompareError
from tasks.metric import mean_of, ratio_of
from tests.leaderboards.makers import MakeEntry

ACCURACY = mean_of("correct", scale=100)
RATING = mean_of("rating")
COVERAGE = ratio_of("covered", "objects", scale=100)

TASK = "pope"


def metric(task: str, name: str) -> CountsMetric | None:
    return {"accuracy": ACCURACY, "score": RATING, "coverage": COVERAGE, NEXT_TOKEN: ACCURACY}.get(name)


def closed(
    said: Sequence[bool | None],
    knew: Sequence[bool] | None = None,
    *,
    run: str = "run",
    task: str = TASK,
    words: int = 1,
    cut: bool = False,
) -> list[Sample]:
    """Answers to yes/no questions: right, wrong, or None = failed; every other truth is yes. Wrong ones of many words
    can't be read."""
    samples = []
    for index, right in enumerate(said):
        truth = ("yes", "no")[index % 2]
        readable = words == 1 or right
        predicted = truth if right else ({"yes": "no", "no": "yes"}[truth] if readable else "other")
        record = {
            "image": f"i{index}",
            "category": ("a", "b")[index % 4 // 2],
            "predicted": predicted,
            "truth": truth,
            "correct": bool(right),
        }
        records: dict[str, dict[str, Any]] = {"accuracy": record | ({} if readable else {"unparsed": True})}
        if knew is not None:
            records[NEXT_TOKEN] = {"image": f"i{index}", "correct": knew[index], "truth": truth, "logprobs": {}}
        samples.append(
            Sample(
                run=run,
                task=task,
                id=str(index),
                image=f"i{index}",
                prompt=f"Question {index}?",
                answer=None if right is None else " ".join([predicted] * words),
                records={} if right is None else records,
                reply=None,
                cut=cut,
            )
        )
    return samples


def by_id(samples: Sequence[Sample]) -> dict[str, Sample]:
    return {sample.id: sample for sample in samples}


def loader(**runs: Sequence[Sample] | None) -> Loader:
    """Runs by name; None = the run's log is lost; any other kept none."""

    def load(run: str) -> Sequence[Sample]:
        found = runs.get(run, [])
        if found is None:
            raise FileNotFoundError(run)
        return found

    return load


def share(percent: int, of: int = 200) -> list[bool]:
    """So many right answers, spread over the questions in the same places whatever the share."""
    order = np.random.default_rng(0).permutation(of)
    return [bool(place < of * percent // 100) for place in order]


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
# ---------------------------------------------------------------------------------------------------------------------


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
# ---------------------------------------------------------------------------------------------------------------------------------


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
# ------------------------------------------------------------------------------------------------------------------------


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


# -- the standing of a board
# ---------------------------------------------------------------------------------------------------------------


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
    assert "▼ worse ≠ |" in to_markdown(changed)
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
