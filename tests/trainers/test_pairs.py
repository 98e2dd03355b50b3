"""Which answers become pairs: every rule against what it says, on data with every trap of the public file."""

import itertools
import json
import math
import random
import re
from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.errors import RecipeError
from support.images import ImageRef
from tests.trainers.pair_makers import pairs_of
from trainers.config.data import ASPECTS, Data, PoolModel
from trainers.data import pair_rules
from trainers.data.pair_rules import RULES, PairCounts, best_answers, find_rule, pair_up
from trainers.data.rows import Completion, Row
from trainers.data.vlfeedback_format import read_rows

HELP, ETHICS, FAITH = ASPECTS


def answer(model: str, *ratings: Any, text: str | None = None) -> Completion:
    given = {aspect: str(rating) for aspect, rating in zip(ASPECTS, ratings, strict=False) if rating is not None}
    return Completion(model=model, response=f"{model} says" if text is None else text, ratings=given)


def row(*answers: Completion, index: int = 0, prompt: str = "What is it?", image: str = "merged_images/7.jpg") -> Row:
    return Row(index=index, id="7", prompt=prompt, images=(ImageRef(image),), completions=answers)


def chosen(
    rows: Iterable[Row], rule: str = "authors", counts: PairCounts | None = None, **options: Any
) -> list[tuple[str, str]]:
    made = pair_up(rows, find_rule(rule, **options), counts or PairCounts())
    return [(pair.chosen_model, pair.rejected_model) for pair in made]


# -- the public file, with its traps


def trapped_file(path: Path, rows: int = 200) -> list[dict[str, Any]]:
    """Rows in the public schema, in both nestings: repeated ids, ratings that are no number, missing or padded, few and
    many answers."""
    rng = random.Random(7)
    strange = ["N/A", "", "nan", "NaN", "4/5", "None", " 4 ", "4.5", "3.50", "1e0", "five", "½"]
    models = ["gpt-4v", "llava-v1.5-7b", "fuyu-8b", "mmicl-vicuna-13b", "qwen-vl-chat"]
    made = []
    for index in range(rows):
        count = rng.choice([0, 1, 2, 3, 4, 4, 4, 4, 4, 4, 5, 6])
        names = [rng.choice(models) for _ in range(count)]
        completions = []
        for name in names:
            annotations = {}
            for aspect in ASPECTS:
                rating: Any = rng.choice(strange) if rng.random() < 0.08 else str(rng.randint(1, 5))
                if rng.random() < 0.04:
                    continue
                if rng.random() < 0.03:
                    rating = None
                elif rng.random() < 0.05:
                    rating = rng.randint(1, 5)
                annotations[aspect] = {"Rating": rating, "Rationale": f"because {rating}"}
            text = "the same" if rng.random() < 0.15 else f"{name} on {index}: " + "word " * rng.randint(0, 30)
            kept = {} if rng.random() < 0.02 else annotations
            completions.append({"annotations": kept, "model": name, "response": text})
        nested: Any = completions
        if rng.random() < 0.5:
            nested = {key: [one[key] for one in completions] for key in ("annotations", "model", "response")}
        asked = {"id": str(index % 37), "prompt": f"Question {index % 90}?", "models": names}
        made.append({**asked, "completions": nested, "img_path": ""})
    path.write_text("".join(json.dumps(one) + "\n" for one in made), encoding="utf-8")
    return made


def by_the_authors(raw: Iterable[Mapping[str, Any]]) -> tuple[list[tuple[int, str, str, str, str]], dict[str, int]]:
    """The authors' rule once more, from its description and the raw file: plain floats, all combinations."""
    found, counts = [], {"rows": 0, "pairs": 0, "ties": 0, "skipped_non_numeric": 0, "same_text": 0}
    for place, one in enumerate(raw):
        counts["rows"] += 1
        given = one["completions"]
        if isinstance(given, dict):
            given = [{key: given[key][i] for key in given} for i in range(len(given["model"]))]
        for a, b in itertools.combinations(given, 2):
            means = []
            for side in (a, b):
                try:
                    given_ratings = [note["Rating"] for note in side["annotations"].values()]
                    numbers = [float(rating) for rating in given_ratings if rating is not None]
                    means.append(sum(numbers) / len(numbers))
                except (ValueError, ZeroDivisionError):
                    break
            if len(means) < 2 or any(mean != mean for mean in means):
                counts["skipped_non_numeric"] += 1
            elif means[0] == means[1]:
                counts["ties"] += 1
            else:
                best, worst = (a, b) if means[0] > means[1] else (b, a)
                found.append((place, best["model"], worst["model"], best["response"], worst["response"]))
                counts["pairs"] += 1
                counts["same_text"] += best["response"] == worst["response"]
    return found, counts


def test_the_authors_rule_equals_brute_force_on_a_file_with_every_trap(tmp_path: Path) -> None:
    raw = trapped_file(tmp_path / "rows.jsonl")
    expected, expected_counts = by_the_authors(raw)
    counts = PairCounts()
    made = list(pair_up(read_rows(tmp_path / "rows.jsonl"), RULES["authors"], counts))
    assert sorted((p.row, p.chosen_model, p.rejected_model, p.chosen, p.rejected) for p in made) == sorted(expected)
    assert {name: counts.to_json()[name] for name in expected_counts} == expected_counts
    assert min(expected_counts.values()) > 0, "a trap is not in the file"
    combinations = sum(math.comb(len(one["models"]), 2) for one in raw)
    assert counts.pairs + counts.ties + counts.skipped_non_numeric == combinations
    assert len({pair.id for pair in made}) == len(made)


@pytest.mark.parametrize("name", sorted(set(RULES) - {"weighted", "strongest"}))
def test_every_pair_there_could_be_is_counted_once(name: str, tmp_path: Path) -> None:
    raw = trapped_file(tmp_path / "rows.jsonl")
    counts = PairCounts()
    made = list(pair_up(read_rows(tmp_path / "rows.jsonl"), find_rule(name), counts))
    assert made
    assert counts.pairs == len(made)
    total = counts.pairs + counts.ties + counts.skipped_non_numeric + counts.refused
    assert total == sum(math.comb(len(one["models"]), 2) for one in raw)
    assert counts.rows_without_pairs == 200 - len({pair.row for pair in made})


# -- what a rule takes

FOUR = row(answer("a", 5, 5, 5), answer("b", 4, 5, 3), answer("c", 1, 5, 3), answer("d", 4, 4, 4))


def test_a_pair_remembers_where_it_comes_from() -> None:
    made, counts = pairs_of(FOUR, RULES["authors"])
    assert (counts.pairs, counts.ties, counts.rows) == (5, 1, 1)
    first = made[0]
    assert (first.row, first.row_id, first.chosen_model, first.rejected_model, first.margin) == (0, "7", "a", "c", 2.0)
    assert (first.chosen, first.rejected, first.prompt, first.images) == ("a says", "c says", FOUR.prompt, FOUR.images)
    assert first.rejected_ratings == {HELP: "1", ETHICS: "5", FAITH: "3"}


def test_a_margin_is_exact_where_floats_are_not() -> None:
    thirds = row(answer("a", 4, 4, 5), answer("b", 3, 3, 4))
    assert 13 / 3 - 10 / 3 < 1
    assert chosen([thirds], "margin", min_margin=1) == [("a", "b")]
    assert chosen([thirds], "margin", min_margin=1.01) == []
    assert pairs_of(thirds, RULES["authors"])[0][0].margin == 1.0


def test_ratings_without_bounds_make_pairs_without_a_finite_margin() -> None:
    extremes = row(
        answer("A", "1e308"), answer("B", "-1e308"), answer("C", "inf"), answer("D", "-inf"), answer("E", "3")
    )
    for rule in ("authors", "margin", "largest-gap", "dominant", "helpfulness"):
        made, counts = pairs_of(extremes, find_rule(rule))
        assert counts.pairs == len(made) > 0
    made, _ = pairs_of(extremes, RULES["authors"])
    assert len(made) == 10
    margins = {(pair.chosen_model, pair.rejected_model): pair.margin for pair in made}
    assert margins["A", "B"] == margins["C", "D"] == math.inf
    assert margins["A", "E"] == 1e308
    assert pair_rules.strongest_model([extremes, row(answer("C", "1"))]) == "A"


@given(
    st.lists(
        st.tuples(*[st.sampled_from(["1", "2", "3", "4", "5", "4.3333334", "0.1", "1e-9", "1e300"])] * 3),
        min_size=2,
        max_size=6,
    )
)
def test_the_margin_is_the_nearest_float_and_the_largest_gaps_are_exact(ratings: list[tuple[str, ...]]) -> None:
    one = row(*(answer(f"m{place}", *given) for place, given in enumerate(ratings)))
    means = {f"m{place}": sum(map(Fraction, given)) / 3 for place, given in enumerate(ratings)}
    gaps = {(a, b): means[a] - means[b] for a in means for b in means if means[a] > means[b]}
    assert {(pair.chosen_model, pair.rejected_model): pair.margin for pair in pairs_of(one, RULES["authors"])[0]} == {
        names: float(gap) for names, gap in gaps.items()
    }
    largest = {names for names, gap in gaps.items() if gap == max(gaps.values())}
    assert {(pair.chosen_model, pair.rejected_model) for pair in pairs_of(one, RULES["largest-gap"])[0]} == largest
    for least in (1, 1 / 3, 0.1):
        apart = {names for names, gap in gaps.items() if gap >= Fraction(repr(float(least)))}
        made, _ = pairs_of(one, find_rule("margin", min_margin=least))
        assert {(pair.chosen_model, pair.rejected_model) for pair in made} == apart


def test_weights_are_what_they_are_written_as() -> None:
    tied = row(answer("a", 1, 1, 2), answer("b", 2, 2, 1), answer("c", 4, 1, 1))
    weights = {"helpfulness": 0.1, "ethics": 0.2, "visual faithfulness": 0.3}
    assert 0.1 * 1 + 0.2 * 1 + 0.3 * 2 != 0.1 * 2 + 0.2 * 2 + 0.3 * 1
    counts = PairCounts()
    assert chosen([tied], "weighted", counts, weights=weights) == []
    assert counts.ties == 3
    assert chosen([tied], "weighted", weights={HELP: 1, ETHICS: 0.5}) == [("c", "a"), ("b", "a"), ("c", "b")]


def test_of_the_largest_gap_all_pairs_are_taken() -> None:
    assert chosen([FOUR], "largest-gap") == [("a", "c")]
    twice = row(answer("a", 5, 5, 5), answer("b", 5, 5, 5), answer("c", 1, 1, 1))
    assert chosen([twice], "largest-gap") == [("a", "c"), ("b", "c")]
    assert chosen([twice], "largest-gap", per_instruction=1) == [("a", "c")]


def test_the_chosen_answer_can_be_held_to_a_least_rating() -> None:
    counts = PairCounts()
    assert chosen([FOUR], "authors", counts, min_chosen=4.5) == [("a", "c"), ("a", "b"), ("a", "d")]
    assert counts.refused == 2
    assert chosen([FOUR], "dominant", min_chosen=4, per_instruction=1) == [("a", "c")]


def test_one_aspect_or_all_but_ethics() -> None:
    ethical = row(answer("a", 3, 5, 3), answer("b", 3, 1, 4))
    assert chosen([ethical]) == [("a", "b")]
    assert chosen([ethical], "no-ethics") == [("b", "a")]
    assert chosen([ethical], "ethics") == [("a", "b")]
    assert chosen([ethical], "faithfulness") == [("b", "a")]
    counts = PairCounts()
    assert chosen([ethical], "helpfulness", counts) == []
    assert counts.ties == 1


def test_an_aspect_that_does_not_count_need_not_be_a_number() -> None:
    unsure = row(answer("a", 5, "N/A", 5), answer("b", 4, 5, 4))
    counts = PairCounts()
    assert chosen([unsure], "authors", counts) == []
    assert (counts.unrated, counts.skipped_non_numeric) == (1, 1)
    assert chosen([unsure], "no-ethics") == [("a", "b")]


def test_length_controlled_pairs_are_about_as_long() -> None:
    long = row(
        answer("a", 5, 5, 5, text="x" * 31), answer("b", 4, 4, 4, text="x" * 20), answer("c", 3, 3, 3, text="x" * 30)
    )
    assert chosen([long], "length-controlled") == [("a", "c"), ("b", "c")]
    empty = row(answer("a", 5, 5, 5, text=""), answer("b", 4, 4, 4, text="x"), answer("c", 3, 3, 3, text=""))
    assert chosen([empty], "length-controlled") == [("a", "c")]


def test_the_longest_is_best_whatever_its_ratings() -> None:
    counts = PairCounts()
    bad = row(answer("a", 1, 1, 1, text="xxx"), answer("b", 5, 5, 5, text="xx"), answer("c", text="xx"))
    assert chosen([bad], "longest", counts) == [("a", "b"), ("a", "c")]
    assert (counts.ties, counts.skipped_non_numeric) == (1, 0)
    assert pairs_of(bad, RULES["longest"])[0][0].margin is None


def test_the_strongest_models_answers_are_best() -> None:
    rows = [
        FOUR,
        row(answer("b", 5, 5, 5), answer("a", 4, 5, 5), index=1),
        row(answer("b", 1, 1, 1), answer("c", 5, 5, 5), index=2),
    ]
    rule, read = pair_rules.settle(RULES["strongest"], iter(rows))
    assert rule.strongest == "a"
    assert list(read) == rows
    assert chosen(rows, "strongest", strongest="A") == [("a", "b"), ("a", "c"), ("a", "d"), ("a", "b")]
    named = find_rule("strongest", strongest="GPT-4V")
    stream = iter(rows)
    assert pair_rules.settle(named, stream) == (named, stream)
    assert list(stream) == rows  # not read for nothing
    with pytest.raises(RecipeError, match="needs the name of a model"):
        list(pair_up(rows, RULES["strongest"], PairCounts()))
    with pytest.raises(RecipeError, match="no answer has a rating"):
        pair_rules.strongest_model([row(answer("a"), answer("b", "N/A"))])


def test_a_dominant_pair_trades_no_aspect_for_another() -> None:
    traded = row(answer("a", 5, 4, 5), answer("b", 4, 5, 4), answer("c", 4, 4, 4, text="b says"))
    assert chosen([traded], "dominant") == [("a", "c")]
    again = row(answer("a", 5, 5, 5, text="good"), answer("b", 4, 4, 4, text="bad"), answer("c", 4, 4, 4, text="bad"))
    assert chosen([again], "dominant") == [("a", "b")]
    same = row(answer("a", 5, 5, 5, text="same"), answer("b", 4, 4, 4, text="same"))
    assert chosen([same], "dominant") == []
    assert chosen([same]) == [("a", "b")]


def test_the_best_of_a_row_by_seed_where_several_are() -> None:
    twice = [row(answer("a", 5, 5, 5), answer("b", 5, 5, 5), answer("c", 4, 4, 4), index=i) for i in range(60)]
    unrated = row(answer("a", "N/A"), answer("b"), index=60)
    first = list(best_answers([*twice, unrated], RULES["authors"], seed=1))
    assert {best.model for best in first} == {"a", "b"}
    assert len(first) == 60
    assert first == list(best_answers(reversed(list(reversed(twice))), RULES["authors"], seed=1))
    assert first != list(best_answers(twice, RULES["authors"], seed=2))
    assert (first[3].row, first[3].row_id, first[3].completion) == (3, "7", f"{first[3].model} says")
    assert [best.model for best in best_answers([FOUR, twice[0]], find_rule("strongest", strongest="d"))] == ["d"]
    assert next(best_answers([FOUR], find_rule("authors", min_chosen=5))).model == "a"
    assert not list(best_answers([row(answer("a", 4, 5, 5))], find_rule("authors", min_chosen=5)))


def test_yes_and_no_are_chosen_equally_often_and_the_first_of_each_stay() -> None:
    def asked(index: int, true: str, other: str) -> Row:
        return row(answer("a", 5, 5, 5, text=true), answer("b", 1, 1, 1, text=other), index=index)

    texts = (("Yes, it is.", "No."), ("yes", "no"), ("No parking.", "yes"), ("no\nIt is not.", "Yes"))
    rows = [asked(index, *said) for index, said in enumerate(texts)]
    counts = PairCounts()
    made = list(pair_up(rows, find_rule("authors", balance_yes_no=True), counts))
    assert [pair.row for pair in made] == [0, 2, 3]
    assert (counts.pairs, counts.balanced_away) == (3, 1)


# -- options and names


def test_an_unknown_rule_or_option_is_named_with_what_is_known() -> None:
    options: dict[str, Any]
    for name, options, message in (
        ("autors", {}, "rule = 'autors': no pair rule of that name (did you mean 'authors'?); known: authors, margin"),
        ("authors", {"min_margn": 1}, "unknown key 'min_margn' (did you mean 'min_margin'?)"),
        ("authors", {"aspects": ["Helpfullness"]}, "'Helpfullness' (did you mean 'helpfulness'?); known: helpfulness"),
    ):
        with pytest.raises(RecipeError, match=re.escape(message)):
            find_rule(name, **options)


@pytest.mark.parametrize(
    ("name", "options"),
    (
        ("margin", {"min_margin": -1}),
        ("margin", {"min_margin": math.nan}),
        ("authors", {"per_instruction": 0}),
        ("length-controlled", {"max_length_ratio": 0.5}),
        ("weighted", {}),
        ("weighted", {"weights": {HELP: 0}}),
        ("weighted", {"weights": {HELP: -1, FAITH: 2}}),
        ("helpfulness", {"weights": {FAITH: 1}}),
        ("longest", {"min_margin": 1}),
        ("longest", {"aspects": [HELP]}),
        ("authors", {"strongest": "gpt-4v"}),
    ),
)
def test_an_option_that_makes_no_sense_is_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=rf"rule '{name}'"):
        find_rule(name, **options)


def test_the_recipe_knows_the_rules_and_their_options() -> None:
    assert set(get_args(Data.model_fields["rule"].annotation)) == set(RULES)
    pool = (PoolModel(model="a"), PoolModel(model="b"))
    assert pair_rules.rule_of(Data(instructions=1, pool=pool)) == RULES["authors"]
    options: dict[str, Any] = {"min_margin": 0.5, "per_instruction": 2, "min_chosen": 3, "weights": {HELP: 2, FAITH: 1}}
    full = Data(instructions=1, pool=pool, rule="weighted", **options)
    assert pair_rules.rule_of(full) == find_rule("weighted", **options)
    assert pair_rules.rule_of(Data(instructions=1, pool=pool, rule="margin")).min_margin == 1


def test_a_recipe_can_name_no_strongest_member_and_gets_the_best_rated() -> None:
    data = Data(instructions=2, pool=(PoolModel(model="a"), PoolModel(model="b")), answers=2, rule="strongest")
    points = ({"a@1": "5", "b@1": "1"}, {"a@1": "2", "b@1": "3"})
    rows = [row(*(answer(name, *[given] * 3) for name, given in one.items())) for one in points]
    rule, _ = pair_rules.settle(pair_rules.rule_of(data), rows)
    made = pair_up(rows, rule, PairCounts())
    assert [pair.chosen_model for pair in made] == ["a@1", "a@1"]


# -- properties

RATING = st.sampled_from(["1", "2", "3", "4", "5", "4.5", "N/A", "", "nan", "inf", None])
ANSWERS = st.lists(
    st.tuples(st.sampled_from("abc"), st.tuples(RATING, RATING, RATING), st.text(max_size=6)).map(
        lambda made: answer(made[0], *made[1], text=made[2])
    ),
    max_size=6,
)


@given(ANSWERS, st.sampled_from(sorted(set(RULES) - {"strongest", "weighted"})))
def test_no_pair_is_lost_or_made_twice(answers: list[Completion], name: str) -> None:
    made, counts = pairs_of(row(*answers), RULES[name])
    total = counts.pairs + counts.ties + counts.skipped_non_numeric + counts.refused
    assert total == math.comb(len(answers), 2)
    assert len({frozenset(pair.id.split("-")[1:]) for pair in made}) == len(made)
    if RULES[name].score == "ratings":
        margins = [pair.margin or 0 for pair in made]
        assert margins == sorted(margins, reverse=True)
        assert all(margin > 0 for margin in margins)


@given(ANSWERS, st.permutations(range(6)))
def test_the_order_of_the_answers_does_not_matter(answers: list[Completion], order: list[int]) -> None:
    def said(answers: list[Completion]) -> list[tuple[str, str, float | None]]:
        made, _ = pairs_of(row(*answers), RULES["authors"])
        return sorted((pair.chosen, pair.rejected, pair.margin) for pair in made)

    assert said(answers) == said([answers[i] for i in order if i < len(answers)])


def test_means_are_exact() -> None:
    assert pair_rules.mean_rating({HELP: "4", ETHICS: "5", FAITH: "4.1"}) == (131, 30)
