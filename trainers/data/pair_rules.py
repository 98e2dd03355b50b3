"""Preference pairs from rated answers, as pure functions that stream.

    rule = find_rule("authors", min_margin=1)
    counts = PairCounts()
    for pair in pair_up(rows, rule, counts): ...     # a Preference that knows its row, models and ratings
    counts.ties, counts.skipped_non_numeric          # with pairs, refused and balanced_away: all there could be

VLFeedback's own rule, "authors": the score of an answer is the mean of the ratings it has, every two answers of a row
of unequal score are a pair, equal scores are a tie and dropped, and a pair is skipped where a rating of either answer
is no number to Python's float(). The other rules are this one with other scores, or with fewer of its pairs taken.

Scores are compared as integers, the weighted sums of ratings over a common unit: a gap of 4 1/3 to 3 1/3 is 1, which
floats deny.
"""

import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property, lru_cache
from itertools import combinations
from typing import Any, Literal, NamedTuple

from pydantic import ValidationError

from support.errors import RecipeError
from support.images import ImageRef
from trainers.config.data import ASPECTS, PairOptions
from trainers.config.recipe import first_problem
from trainers.data.rows import Completion, Preference, Row
from trainers.data.scores import Score, as_ratio, mean_of, number, scale, weighted_mean


class Compared(NamedTuple):
    """By what answers are compared; rules of equal values have the same ranking of a row."""

    score: str
    aspects: tuple[str, ...]
    weights: tuple[tuple[str, float], ...]


class NamedRule(PairOptions):
    """Which answer of two is chosen, and which pairs are taken: a rule with its options."""

    score: Literal["ratings", "length", "model"] = "ratings"
    """By what answers are compared: their ratings, their characters, or whether they are of the model `strongest`."""
    dominant: bool = False
    """The chosen answer is worse in no aspect that counts."""
    distinct: bool = False
    """No pair of two equal texts, and each two texts at most once a row."""

    @property
    def name(self) -> str:
        """The rule's."""
        return self.rule

    def replace(self, **changes: Any) -> "NamedRule":
        """The rule with other values; a plain copy would keep the cached properties."""
        return NamedRule.model_validate(self.model_dump() | changes)

    @cached_property
    def compared(self) -> Compared:
        """All that scores depend on, beside `strongest`."""
        return Compared(self.score, self.aspects, tuple(self.weights.items()))

    @cached_property
    def takes_all(self) -> bool:
        """True if every two answers of unequal score are a pair."""
        limits = (self.min_margin, self.min_chosen, self.per_instruction, self.max_length_ratio)
        return not (any(limits) or self.largest_gap or self.dominant or self.distinct)


RULES: Mapping[str, NamedRule] = {
    rule.name: rule
    for rule in (
        NamedRule(rule="authors"),
        NamedRule(rule="margin", min_margin=1.0),
        NamedRule(rule="largest-gap", largest_gap=True),
        NamedRule(rule="helpfulness", aspects=("Helpfulness",)),
        NamedRule(rule="ethics", aspects=("Ethical Considerations",)),
        NamedRule(rule="faithfulness", aspects=("Visual Faithfulness",)),
        NamedRule(rule="no-ethics", aspects=("Helpfulness", "Visual Faithfulness")),
        NamedRule(rule="weighted", weights=dict.fromkeys(ASPECTS, 1.0)),
        NamedRule(rule="length-controlled", max_length_ratio=1.5),
        NamedRule(rule="dominant", dominant=True, distinct=True),
        NamedRule(rule="longest", score="length"),
        NamedRule(rule="strongest", score="model"),
    )
}
"""The rules by name. "longest" and "strongest" are the paper's controls: they choose without a look at the ratings."""


@dataclass(kw_only=True)
class PairCounts:
    """What became of all the pairs there could be; in pairs where nothing else is said."""

    rows: int = 0
    """Rows."""
    rows_without_pairs: int = 0
    """Rows that gave none."""
    pairs: int = 0
    ties: int = 0
    """Of equal score."""
    skipped_non_numeric: int = 0
    """With a rating that is no number, or no rating at all, on either side."""
    refused: int = 0
    """Of unequal score, and not taken by the rule."""
    balanced_away: int = 0
    """Yes/no pairs dropped so that yes and no are chosen equally often."""
    same_text: int = 0
    """Of `pairs`: those whose two answers are the same text."""
    unrated: int = 0
    """Answers without a score."""

    def add(self, other: "PairCounts") -> None:
        """Take in the counts of other rows."""
        for part in fields(self):
            setattr(self, part.name, getattr(self, part.name) + getattr(other, part.name))

    def to_json(self) -> dict[str, int]:
        """Name -> count."""
        return asdict(self)

    def summary(self) -> str:
        """Every count that is not zero, in one line."""
        return ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in asdict(self).items() if count)


@dataclass(frozen=True, kw_only=True)
class BestAnswer:
    """The best answer of a row, to learn from by itself (SFT)."""

    prompt: str
    images: tuple[ImageRef, ...]
    completion: str
    model: str
    ratings: Mapping[str, str] = field(default_factory=dict)
    row: int
    """Index of its row."""
    row_id: str = ""


def find_rule(name: str, **options: Any) -> NamedRule:
    """The rule of this name, with `options` (fields of PairOptions) in the place of its own; RecipeError."""
    try:
        return rule_of(PairOptions.model_validate({"rule": name, **options}))
    except ValidationError as error:
        raise RecipeError(f"rule {name!r}: {first_problem(error, PairOptions)}") from None


def rule_of(options: PairOptions) -> NamedRule:
    """The rule that options, or a recipe's [data] or [dataset], ask for; RecipeError for options that it can't have."""
    given = options.model_dump(include=set(PairOptions.model_fields), exclude_defaults=True)
    rule = RULES[options.rule].replace(**given)
    what = f"rule {rule.name!r}"
    if rule.name == "weighted" and "weights" not in given:
        raise RecipeError(f"{what} needs a weight for each aspect that counts; aspects: {', '.join(ASPECTS)}")
    if rule.weights and not any(rule.weights.values()):
        raise RecipeError(f"{what}: weights {rule.weights!r}: one must be above 0")
    if rule.aspects and rule.weights and not any(rule.weights.get(aspect) for aspect in rule.aspects):
        raise RecipeError(f"{what}: no weight is of an aspect that counts ({', '.join(rule.aspects)})")
    of_ratings = [name for name in ("aspects", "weights", "min_margin", "min_chosen") if getattr(rule, name)]
    if rule.score != "ratings" and of_ratings:
        raise RecipeError(f"{what} does not look at ratings, so it cannot have {' and '.join(of_ratings)}")
    if rule.strongest and rule.score != "model":
        raise RecipeError(f"{what} cannot have strongest = {rule.strongest!r}; rule 'strongest' can")
    return rule


def mean_rating(ratings: Mapping[str, str], rule: NamedRule = RULES["authors"]) -> Score | None:
    """The (weighted) mean over the aspects that count and are there; None where there is none, or one is no number."""
    return weighted_mean(tuple(ratings.items()), rule.compared.aspects, rule.compared.weights)


def score_of(answer: Completion, rule: NamedRule) -> Score | None:
    """What the rule compares; None: it cannot be compared."""
    if rule.score == "length":
        return Score(len(answer.response), 1)
    if rule.score == "model":
        return Score(int(model_key(answer.model) == model_key(rule.strongest)), 1)
    return mean_rating(answer.ratings, rule)


@lru_cache(maxsize=1 << 12)
def model_key(name: str) -> str:
    """A key for all spellings of a model's name: without case, punctuation, the owner and "@temperature"."""
    return re.sub(r"[\W_]+", "", name.rpartition("/")[2].partition("@")[0]).casefold()


class Gap(NamedTuple):
    """Two answers of a row, by their places in it, and how far apart their scores are."""

    chosen: int
    rejected: int
    score: Score
    """Of the chosen answer."""
    points: int | float
    """Of the gap, above 0; infinite where a rating is."""
    unit: int
    """Of `points`: the same for all gaps of a row."""
    order: float
    """The difference of the rounded scores, by which gaps are sorted."""

    @property
    def margin(self) -> float:
        """The float nearest to the gap; infinite where none is as large."""
        try:
            return self.points / self.unit
        except OverflowError:
            return math.inf

    def reaches(self, least: Score) -> bool:
        """True if the gap is at least this."""
        return Score(self.points, self.unit).reaches(least)


@dataclass(frozen=True, slots=True)
class Ranking:
    """What there is to take of one row."""

    pairs: list[Gap]
    """Of unequal score, largest gap first, then by model name and place."""
    scored: int
    """Answers that have a score."""


def rank(row: Row, rule: NamedRule) -> Ranking:
    """The pairs of unequal score, whether the rule takes them or not: the same for all rules of the same `compared`."""
    answers = row.completions
    scores = {place: found for place, answer in enumerate(answers) if (found := score_of(answer, rule)) is not None}
    unit = math.lcm(*(found.unit for found in scores.values()))
    points = {place: scale(found, unit) for place, found in scores.items()}
    rounded = {place: found.value for place, found in scores.items()}
    pairs = []
    for first, second in combinations(scores, 2):
        if points[first] != points[second]:
            high, low = (first, second) if points[first] > points[second] else (second, first)
            infinite = isinstance(points[high], float) or isinstance(points[low], float)
            gap = math.inf if infinite else points[high] - points[low]
            pairs.append(Gap(high, low, scores[high], gap, unit, rounded[high] - rounded[low]))
    # By rounded differences: rounding decides the order of equal gaps, and digests of data depend on that order.
    models = [answer.model for answer in answers]
    pairs.sort(key=lambda gap: (-gap.order, models[gap.chosen], models[gap.rejected], gap.chosen, gap.rejected))
    return Ranking(pairs, len(scores))


def take(row: Row, rule: NamedRule, ranking: Ranking, counts: PairCounts) -> list[Gap]:
    """Those pairs of a ranking that the rule takes; `counts` takes in what became of all."""
    answers, pairs = row.completions, ranking.pairs
    taken = pairs if rule.takes_all else _select(answers, rule, pairs)
    rated = math.comb(ranking.scored, 2)
    counts.rows += 1
    counts.rows_without_pairs += not taken
    counts.pairs += len(taken)
    counts.ties += rated - len(pairs)
    counts.skipped_non_numeric += math.comb(len(answers), 2) - rated
    counts.refused += len(pairs) - len(taken)
    counts.same_text += sum(answers[gap.chosen].response == answers[gap.rejected].response for gap in taken)
    counts.unrated += len(answers) - ranking.scored
    return taken


def _select(answers: Sequence[Completion], rule: NamedRule, pairs: Sequence[Gap]) -> list[Gap]:
    if rule.largest_gap:
        largest = max((gap.points for gap in pairs), default=0)
        pairs = [gap for gap in pairs if gap.points == largest]
    taken: list[Gap] = []
    seen: set[tuple[str, str]] = set()
    for gap in pairs:
        if len(taken) == rule.per_instruction:
            break
        if not _meets_limits(rule, gap, answers):
            continue
        if rule.distinct:
            texts = (answers[gap.chosen].response, answers[gap.rejected].response)
            if texts[0] == texts[1] or texts in seen:
                continue
            seen.add(texts)
        taken.append(gap)
    return taken


def _meets_limits(rule: NamedRule, gap: Gap, answers: Sequence[Completion]) -> bool:
    """True if the rule takes this pair, whichever others it takes."""
    if rule.min_margin and not gap.reaches(as_ratio(rule.min_margin)):
        return False
    if rule.min_chosen is not None and not gap.score.reaches(as_ratio(rule.min_chosen)):
        return False
    chosen, rejected = answers[gap.chosen], answers[gap.rejected]
    if rule.max_length_ratio is not None:
        shorter, longer = sorted((len(chosen.response), len(rejected.response)))
        if longer > shorter * rule.max_length_ratio:
            return False
    return not rule.dominant or dominates(chosen.ratings, rejected.ratings, rule)


def dominates(better: Mapping[str, str], worse: Mapping[str, str], rule: NamedRule = RULES["dominant"]) -> bool:
    """True if no aspect that counts is rated lower in `better`."""
    counting = rule.aspects or [aspect for aspect, weight in rule.weights.items() if weight] or set(better) | set(worse)
    for aspect in counting:
        high, low = number(better.get(aspect, "")), number(worse.get(aspect, ""))
        if (high is None) != (low is None) or (high is not None and low is not None and high < low):
            return False
    return True


def _make_preference(row: Row, rule: NamedRule, gap: Gap) -> Preference:
    chosen, rejected = row.completions[gap.chosen], row.completions[gap.rejected]
    return Preference(
        id=f"{row.index}-{gap.chosen}-{gap.rejected}",
        prompt=row.prompt,
        images=row.images,
        chosen=chosen.response,
        rejected=rejected.response,
        margin=gap.margin if rule.score == "ratings" else None,
        row=row.index,
        row_id=row.id,
        chosen_model=chosen.model,
        rejected_model=rejected.model,
        chosen_ratings=chosen.ratings,
        rejected_ratings=rejected.ratings,
    )


def pair_up(rows: Iterable[Row], rule: NamedRule, counts: PairCounts) -> Iterator[Preference]:
    """The pairs of all rows, in their order, one row in memory at a time; `counts` is complete after the last pair."""
    _require_model(rule)
    pairs = (_make_preference(row, rule, gap) for row in rows for gap in take(row, rule, rank(row, rule), counts))
    yield from balanced(list(pairs), counts) if rule.balance_yes_no else pairs


def _require_model(rule: NamedRule) -> None:
    if rule.score == "model" and not rule.strongest:
        raise RecipeError("rule 'strongest' needs the name of a model: strongest='GPT-4V', or settle(rule, rows)")


def settle(rule: NamedRule, rows: Iterable[Row]) -> tuple[NamedRule, Iterable[Row]]:
    """The rule, with the strongest model's name if it needs one, and the rows; all are held in memory to find it."""
    if rule.score != "model" or rule.strongest:
        return rule, rows
    rows = list(rows)
    return rule.replace(strongest=strongest_model(rows)), rows


def strongest_model(rows: Iterable[Row]) -> str:
    """The model of the highest mean of finite ratings, of equals the first by name; RecipeError where nothing is
    rated."""
    rated: dict[str, Counter[Score]] = defaultdict(Counter)
    for row in rows:
        for answer in row.completions:
            if (found := mean_rating(answer.ratings)) is not None and isinstance(found.points, int):
                rated[answer.model][found] += 1
    if not rated:
        raise RecipeError("rule 'strongest': no answer has a rating, so the strongest model is not known; name it")
    means = {model: mean_of(scores) for model, scores in rated.items()}
    unit = math.lcm(*(mean.unit for mean in means.values()))
    return min(means, key=lambda model: (-scale(means[model], unit), model))


_YES_NO = re.compile(r"\W*(yes|no)(?:\s*$|\s*[,.;:!\n])", re.IGNORECASE)


def yes_or_no(answer: str) -> str | None:
    """ "yes" or "no" where the answer is, or opens with, one of them; "no parking" does not."""
    found = _YES_NO.match(answer)
    return found.group(1).lower() if found else None


def balanced(pairs: Sequence[Preference], counts: PairCounts) -> list[Preference]:
    """The pairs without the last of the more frequent choice, so that "yes" and "no" are chosen equally often; corrects
    `counts`."""
    chosen = [yes_or_no(pair.chosen) for pair in pairs]
    left = dict.fromkeys(("yes", "no"), min(chosen.count("yes"), chosen.count("no")))
    kept: list[Preference] = []
    for pair, choice in zip(pairs, chosen, strict=True):
        if choice is None or left[choice] > 0:
            kept.append(pair)
        if choice is not None:
            left[choice] -= 1
    counts.balanced_away += len(pairs) - len(kept)
    counts.pairs = len(kept)
    counts.same_text = sum(pair.chosen == pair.rejected for pair in kept)
    return kept


def best_answers(rows: Iterable[Row], rule: NamedRule, seed: int = 0) -> Iterator[BestAnswer]:
    """The best answer of each row by the rule's score; of equals one by a seeded choice.

    With rule "strongest" the answer of that model, if it gave one. Of the options only `min_chosen` acts.
    """
    _require_model(rule)
    for row in rows:
        scored = [(score_of(answer, rule), place) for place, answer in enumerate(row.completions)]
        rated = [(found, place) for found, place in scored if found is not None]
        unit = math.lcm(*(found.unit for found, _ in rated))
        top = max((found for found, _ in rated), key=lambda found: scale(found, unit), default=None)
        if top is None or (rule.score == "model" and not top.points):
            continue
        if rule.min_chosen is not None and not top.reaches(as_ratio(rule.min_chosen)):
            continue
        best = random.Random(f"best/{seed}/{row.index}").choice([place for found, place in rated if found == top])
        answer = row.completions[best]
        yield BestAnswer(
            prompt=row.prompt,
            images=row.images,
            completion=answer.response,
            model=answer.model,
            ratings=answer.ratings,
            row=row.index,
            row_id=row.id,
        )
