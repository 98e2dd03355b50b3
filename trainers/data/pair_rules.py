"""Preference pairs from rated answers, as pure functions that stream.

    rule = find_rule("authors", min_margin=1)
    counts = Counts()
    for pair in pair_up(rows, rule, counts): ...     # a Preference that knows its row, models and ratings
    counts.ties, counts.skipped_non_numeric          # pairs + ties + skipped_non_numeric + refused + balanced_away: all there could be

VLFeedback's own rule, "authors": the score of an answer is the mean of the ratings it has, every two answers of a row
of unequal score are a pair, equal scores are a tie and dropped, and a pair is skipped where a rating of either answer
is no number to Python's float(). The other rules are this one with other scores, or with fewer of its pairs taken;
every option goes with every rule it makes sense for. Scores are exact fractions: a gap of 4 1/3 to 3 1/3 is 1, which
floats deny.
"""

import hashlib
import math
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from fractions import Fraction
from functools import lru_cache
from itertools import combinations
from typing import Any, Literal

from support.errors import RecipeError, did_you_mean
from support.images import ImageRef
from trainers.config.data import ASPECTS, Data
from trainers.data.rows import Completion, Preference, Row

Exact = Fraction | int | float
"""A score; a float only where a rating is infinite."""
Score = tuple[float, Exact]
"""A score and, before it, the float nearest to it: most comparisons end there, and cost a tenth."""

SHORT_ASPECTS = {
    "ethics": "Ethical Considerations",
    "ethical": "Ethical Considerations",
    "faithfulness": "Visual Faithfulness",
}
"""What aspects are also called."""


@dataclass(frozen=True, kw_only=True)
class NamedRule:
    """Which answer of two is chosen, and which pairs are taken."""

    name: str = "authors"
    score: Literal["ratings", "length", "model"] = "ratings"
    """By what answers are compared: their ratings, their characters, or whether they are of the model `strongest`."""
    aspects: tuple[str, ...] = ()
    """The aspects whose ratings count; () all."""
    weights: tuple[tuple[str, float], ...] = ()
    """(aspect, weight in the mean); () all the same. An aspect without a weight does not count."""
    min_margin: float = 0.0
    """Lowest gap of a pair, in rating points."""
    min_chosen: float | None = None
    """Lowest score of a chosen answer, in rating points."""
    largest_gap: bool = False
    """Of each row only the pairs of its largest gap: several where they are equal."""
    per_prompt: int | None = None
    """At most this many pairs a row, those of the largest gap; None: all."""
    max_length_ratio: float | None = None
    """The longer of two answers has at most this many times the characters of the shorter."""
    dominant: bool = False
    """The chosen answer is worse in no aspect that counts."""
    distinct: bool = False
    """No pair of two equal texts, and each two texts at most once a row."""
    strongest: str = ""
    """The model whose answers are chosen over all others'."""
    balance_yes_no: bool = False
    """As many pairs that choose "yes" as pairs that choose "no": the last of the more frequent are dropped. Holds all
    pairs in memory."""

    def __post_init__(self) -> None:
        for name, least in (("min_margin", 0), ("per_prompt", 1), ("max_length_ratio", 1)):
            value = getattr(self, name)
            if value is not None and not least <= value < math.inf:
                raise RecipeError(f"rule {self.name!r}: {name} = {value!r}, but it is a number of at least {least}")
        if any(not 0 <= weight < math.inf for _, weight in self.weights) or (
            self.weights and not any(w for _, w in self.weights)
        ):
            raise RecipeError(
                f"rule {self.name!r}: weights {dict(self.weights)!r}: none may be negative, and one must be above 0"
            )
        if (
            self.aspects
            and self.weights
            and not any(weight for aspect, weight in self.weights if aspect in self.aspects)
        ):
            raise RecipeError(f"rule {self.name!r}: no weight is of an aspect that counts ({', '.join(self.aspects)})")
        if self.name == "weighted" and not self.weights:
            raise RecipeError(
                f"rule 'weighted' needs a weight for each aspect that counts; aspects: {', '.join(ASPECTS)}"
            )
        asks_ratings = [
            name for name in ("aspects", "weights", "min_margin", "min_chosen", "dominant") if getattr(self, name)
        ]
        if self.score != "ratings" and asks_ratings:
            raise RecipeError(
                f"rule {self.name!r} does not look at ratings, so it cannot have {' and '.join(asks_ratings)}"
            )
        if self.strongest and self.score != "model":
            raise RecipeError(f"rule {self.name!r} cannot have strongest = {self.strongest!r}; rule 'strongest' can")

    @property
    def takes_all(self) -> bool:
        """Whether every two answers of unequal score are a pair."""
        narrows = (
            self.min_margin,
            self.min_chosen,
            self.largest_gap,
            self.per_prompt,
            self.max_length_ratio,
            self.dominant,
            self.distinct,
        )
        return not any(narrows)


RULES: Mapping[str, NamedRule] = {
    rule.name: rule
    for rule in (
        NamedRule(name="authors"),
        NamedRule(name="margin", min_margin=1.0),
        NamedRule(name="largest-gap", largest_gap=True),
        NamedRule(name="helpfulness", aspects=("Helpfulness",)),
        NamedRule(name="ethics", aspects=("Ethical Considerations",)),
        NamedRule(name="faithfulness", aspects=("Visual Faithfulness",)),
        NamedRule(name="no-ethics", aspects=("Helpfulness", "Visual Faithfulness")),
        NamedRule(name="weighted", weights=tuple((aspect, 1.0) for aspect in ASPECTS)),
        NamedRule(name="length-controlled", max_length_ratio=1.5),
        NamedRule(name="dominant", dominant=True, distinct=True),
        NamedRule(name="longest", score="length"),
        NamedRule(name="strongest", score="model"),
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
    """The rule of this name, with `options` (fields of Rule; `weights` as a mapping) in the place of its own; raises
    RecipeError."""
    if name not in RULES:
        raise RecipeError(f"no pair rule {name!r}{did_you_mean(name, RULES)}")
    known = [part.name for part in fields(NamedRule) if part.name not in ("name", "score")]
    for option in options:
        if option not in known:
            raise RecipeError(f"pair rules have no option {option!r}{did_you_mean(option, known)}")
    if "aspects" in options:
        options["aspects"] = tuple(find_aspect(aspect) for aspect in options["aspects"])
    if "weights" in options:
        options["weights"] = tuple(
            (find_aspect(aspect), float(weight)) for aspect, weight in dict(options["weights"]).items()
        )
    elif name == "weighted":
        options["weights"] = ()
    return replace(RULES[name], **options)


def find_aspect(name: str) -> str:
    """The aspect as the data spell it, of a name in any case, or a short one such as "ethics"; raises RecipeError."""
    known = {aspect.casefold(): aspect for aspect in ASPECTS} | SHORT_ASPECTS
    wanted = re.sub(r"[\s_-]+", " ", name).strip().casefold()
    if wanted not in known:
        raise RecipeError(f"no aspect {name!r}{did_you_mean(wanted, known)}")
    return known[wanted]


def rule_of(data: Data) -> NamedRule:
    """The rule a recipe asks for."""
    given = data.model_dump(include=set(_RECIPE), exclude_defaults=True)
    return find_rule(data.rule, **{_RECIPE[name]: value for name, value in given.items()})


_RECIPE = {
    **{
        name: name
        for name in ("aspects", "weights", "min_margin", "min_chosen", "largest_gap", "max_length_ratio", "strongest")
    },
    "per_instruction": "per_prompt",
    "balance_yes_no": "balance_yes_no",
}


@lru_cache(maxsize=1 << 12)
def number(rating: str) -> float | None:
    """The rating as Python's float() reads it; None for what it refuses, and for "nan"."""
    try:
        value = float(rating)
    except ValueError:
        return None
    return None if math.isnan(value) else value


@lru_cache(maxsize=1 << 12)
def _exactly(value: float) -> Fraction:
    # As it was written: 0.1 is a tenth, not the float nearest to it.
    return Fraction(repr(float(value)))


@lru_cache(maxsize=1 << 14)
def _mean(
    ratings: tuple[tuple[str, str], ...], aspects: tuple[str, ...], weights: tuple[tuple[str, float], ...]
) -> Score | None:
    total, weight_sum = Fraction(0), Fraction(0)
    far, weight_of = 0.0, dict(weights)
    for aspect, rating in ratings:
        if aspects and aspect not in aspects:
            continue
        weight = _exactly(weight_of.get(aspect, 0.0)) if weights else Fraction(1)
        if not weight:
            continue
        value = number(rating)
        if value is None:
            return None
        if math.isinf(value):
            far += value
        else:
            total += weight * _exactly(value)
        weight_sum += weight
    if not weight_sum or math.isnan(far):
        return None
    return _score(far or total / weight_sum)


@lru_cache(maxsize=1 << 14)
def _score(exact: Exact) -> Score:
    # Cached, so that ties are mostly one object.
    return float(exact), exact


def mean_rating(ratings: Mapping[str, str], rule: NamedRule = RULES["authors"]) -> Exact | None:
    """The (weighted) mean over the aspects that count and are there; None where there is none, or one is no number."""
    found = _mean(tuple(ratings.items()), rule.aspects, rule.weights)
    return None if found is None else found[1]


def score(answer: Completion, rule: NamedRule) -> Score | None:
    """What the rule compares; None: it cannot be compared."""
    if rule.score == "length":
        return _score(len(answer.response))
    if rule.score == "model":
        return _score(int(model_key(answer.model) == model_key(rule.strongest)))
    return _mean(tuple(answer.ratings.items()), rule.aspects, rule.weights)


@lru_cache(maxsize=1 << 12)
def model_key(name: str) -> str:
    """What names of one model have in common: case, punctuation, the owner and "@temperature" do not tell models
    apart."""
    return re.sub(r"[\W_]+", "", name.rpartition("/")[2].partition("@")[0]).casefold()


@dataclass(frozen=True, slots=True)
class Gap:
    """Two answers of a row, by their places in it, and their scores."""

    chosen: int
    rejected: int
    better: Score
    worse: Score

    @property
    def size(self) -> Exact:
        """How far apart, in what the rule compares; above 0."""
        return self.better[1] - self.worse[1]

    @property
    def about(self) -> float:
        """The size as floats tell it: close enough for an order, and a tenth of the cost."""
        return self.better[0] - self.worse[0]

    @property
    def margin(self) -> float:
        """The float nearest to the size; infinite where none is as large."""
        high, low = self.better[1], self.worse[1]
        if isinstance(high, float) or isinstance(low, float):
            return float(high - low)
        try:
            # As Fraction subtracts, without the Fraction: dividing integers rounds to the nearest float too.
            return (high.numerator * low.denominator - low.numerator * high.denominator) / (
                high.denominator * low.denominator
            )
        except OverflowError:
            return math.inf

    def near(self, size: float) -> bool:
        """Whether the size may be this one, as far as floats tell."""
        scale = abs(self.better[0]) + abs(self.worse[0]) + abs(size)
        return not abs(self.about - size) > 1e-12 * scale + 1e-300

    def reaches(self, least: Score) -> bool:
        """Whether the size is at least this."""
        return self.size >= least[1] if self.near(least[0]) else self.about > least[0]


@dataclass(frozen=True, slots=True)
class Ranking:
    """What there is to take of one row."""

    pairs: list[Gap]
    """Of unequal score, largest gap first, then by model name and place."""
    scored: int
    """Answers that have a score."""


def rank(row: Row, rule: NamedRule) -> Ranking:
    """The pairs of unequal score, whether the rule takes them or not: the same for all rules of the same score, aspects
    and weights."""
    answers = row.completions
    scored = [(place, found) for place, answer in enumerate(answers) if (found := score(answer, rule)) is not None]
    pairs = [
        Gap(i, j, first, second) if first > second else Gap(j, i, second, first)
        for (i, first), (j, second) in combinations(scored, 2)
        if first is not second and first != second
    ]
    pairs.sort(key=lambda gap: _place(gap, answers))
    return Ranking(pairs, len(scored))


def take(row: Row, rule: NamedRule, ranking: Ranking, counts: PairCounts) -> list[Gap]:
    """Those pairs of a ranking that the rule takes; `counts` takes in what became of all."""
    answers, pairs = row.completions, ranking.pairs
    taken = pairs if rule.takes_all else _taken(answers, rule, pairs)
    rated = math.comb(ranking.scored, 2)
    counts.rows += 1
    counts.rows_without_pairs += not taken
    counts.pairs += len(taken)
    counts.ties += rated - len(pairs)
    counts.skipped_non_numeric += math.comb(len(answers), 2) - rated
    counts.refused += len(pairs) - len(taken)
    for gap in taken:
        if answers[gap.chosen].response == answers[gap.rejected].response:
            counts.same_text += 1
    counts.unrated += len(answers) - ranking.scored
    return taken


def _taken(answers: Sequence[Completion], rule: NamedRule, pairs: Sequence[Gap]) -> list[Gap]:
    least = _score(_exactly(rule.min_margin)) if rule.min_margin else None
    taken: list[Gap] = []
    seen: set[tuple[str, str]] = set()
    for gap in _largest(pairs) if rule.largest_gap else pairs:
        if len(taken) == rule.per_prompt:
            break
        if (least is not None and not gap.reaches(least)) or not _takes(rule, gap, answers):
            continue
        if rule.distinct:
            texts = (answers[gap.chosen].response, answers[gap.rejected].response)
            if texts[0] == texts[1] or texts in seen:
                continue
            seen.add(texts)
        taken.append(gap)
    return taken


def _place(gap: Gap, answers: Sequence[Completion]) -> tuple[float, str, str, int, int]:
    return -gap.about, answers[gap.chosen].model, answers[gap.rejected].model, gap.chosen, gap.rejected


def _largest(pairs: Sequence[Gap]) -> Sequence[Gap]:
    """The first of them, which are in order, that are exactly as large as the largest."""
    near = [gap for gap in pairs if gap.near(pairs[0].about)]
    if len(near) < 2:
        return near
    largest = max(gap.size for gap in near)
    return [gap for gap in near if gap.size == largest]


def _takes(rule: NamedRule, gap: Gap, answers: Sequence[Completion]) -> bool:
    chosen, rejected = answers[gap.chosen], answers[gap.rejected]
    if rule.min_chosen is not None and gap.better[1] < _exactly(rule.min_chosen):
        return False
    if rule.max_length_ratio is not None:
        shorter, longer = sorted((len(chosen.response), len(rejected.response)))
        if longer > shorter * rule.max_length_ratio:
            return False
    return not rule.dominant or dominates(chosen.ratings, rejected.ratings, rule)


def dominates(better: Mapping[str, str], worse: Mapping[str, str], rule: NamedRule = RULES["dominant"]) -> bool:
    """Whether no aspect that counts is rated lower in `better`: such a pair does not teach one aspect at another's
    cost."""
    counting = rule.aspects or [aspect for aspect, weight in rule.weights if weight] or set(better) | set(worse)
    for aspect in counting:
        high, low = number(better.get(aspect, "")), number(worse.get(aspect, ""))
        if (high is None) != (low is None) or (high is not None and low is not None and high < low):
            return False
    return True


def pairs_of(row: Row, rule: NamedRule) -> tuple[list[Preference], PairCounts]:
    """The pairs of one row, largest gap first, and their counts. `balance_yes_no` is not for a row: see pair_up."""
    _settled_or_refuse(rule)
    counts = PairCounts()
    taken = take(row, rule, rank(row, rule), counts)
    return [_preference(row, rule, gap) for gap in taken], counts


def _preference(row: Row, rule: NamedRule, gap: Gap) -> Preference:
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
    """The pairs of all rows, in their order, one row in memory at a time; `counts` is complete when the last one was
    taken."""
    _settled_or_refuse(rule)
    if not rule.balance_yes_no:
        for row in rows:
            for gap in take(row, rule, rank(row, rule), counts):
                yield _preference(row, rule, gap)
        return
    everything = list(pair_up(rows, replace(rule, balance_yes_no=False), counts))
    kept = balanced(everything)
    counts.balanced_away += len(everything) - len(kept)
    counts.pairs = len(kept)
    counts.same_text = sum(pair.chosen == pair.rejected for pair in kept)
    yield from kept


def _settled_or_refuse(rule: NamedRule) -> None:
    if rule.score == "model" and not rule.strongest:
        raise RecipeError(
            "rule 'strongest' needs the model whose answers are best: strongest='GPT-4V', or settle(rule, rows)"
        )


def settle(rule: NamedRule, read: Callable[[], Iterable[Row]]) -> NamedRule:
    """The rule with what it must know of the whole data: which model is strongest, where none is named. Reads all rows
    only then."""
    if rule.score != "model" or rule.strongest:
        return rule
    return replace(rule, strongest=strongest_model(read()))


def strongest_model(rows: Iterable[Row]) -> str:
    """The model of the highest mean of finite ratings, of equals the first by name; raises RecipeError where nothing is
    rated."""
    sums: dict[str, Fraction] = {}
    answers: dict[str, int] = {}
    for row in rows:
        for answer in row.completions:
            if (found := mean_rating(answer.ratings)) is not None and not isinstance(found, float):
                sums[answer.model] = sums.get(answer.model, Fraction(0)) + found
                answers[answer.model] = answers.get(answer.model, 0) + 1
    if not sums:
        raise RecipeError(
            "rule 'strongest': no answer has a rating, so no model can be told to be the strongest; name it"
        )
    return min(sums, key=lambda model: (-sums[model] / answers[model], model))


_YES_NO = re.compile(r"\W*(yes|no)(?:\s*$|\s*[,.;:!\n])", re.IGNORECASE)


def yes_or_no(answer: str) -> str | None:
    """ "yes" or "no" where the answer is, or opens with, one of them; "no parking" does not."""
    found = _YES_NO.match(answer)
    return found.group(1).lower() if found else None


def balanced(pairs: Sequence[Preference]) -> list[Preference]:
    """Without the last of the more frequent choice among yes/no pairs, so that "yes" and "no" are chosen equally
    often."""
    chosen = [yes_or_no(pair.chosen) for pair in pairs]
    left = dict.fromkeys(("yes", "no"), min(chosen.count("yes"), chosen.count("no")))
    kept: list[Preference] = []
    for pair, choice in zip(pairs, chosen, strict=True):
        if choice is None or left[choice] > 0:
            kept.append(pair)
        if choice is not None:
            left[choice] -= 1
    return kept


def best_answers(rows: Iterable[Row], rule: NamedRule, seed: int = 0) -> Iterator[BestAnswer]:
    """The best answer of each row that has one by the rule's score; of equals one by a seeded choice.

    With rule "strongest" the answer of that model; rows it did not answer give none. Of the options only `min_chosen`
    is about one answer.
    """
    _settled_or_refuse(rule)
    for row in rows:
        scored = [
            (found, place) for place, answer in enumerate(row.completions) if (found := score(answer, rule)) is not None
        ]
        top = max((found for found, _ in scored), default=None)
        if (
            top is None
            or (rule.min_chosen is not None and top[1] < _exactly(rule.min_chosen))
            or (rule.score == "model" and not top[1])
        ):
            continue
        best = random.Random(f"best/{seed}/{row.index}").choice([place for found, place in scored if found == top])
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


Side = Literal["train", "test"]


def prompt_key(item: Row | Preference | BestAnswer) -> str:
    """What rows of the same question about the same picture share: words of the prompt in any case, and the picture's
    name or bytes."""
    words = " ".join(re.findall(r"\w+", item.prompt.replace("<image>", " ").casefold()))
    names = (picture.name.replace("\\", "/").rpartition("/")[2] for picture in item.images)
    pictures = (
        name or hashlib.sha256(picture.data or b"").hexdigest()
        for name, picture in zip(names, item.images, strict=True)
    )
    return "\n".join([words or item.prompt, *pictures])


def split(key: str, share: float, seed: int = 0) -> Side:
    """On which side everything of this prompt_key is: "test" for `share` of all keys, whatever the order and number of
    rows."""
    place = int.from_bytes(hashlib.sha256(f"{seed}\n{key}".encode("utf-8", "surrogatepass")).digest()[:8], "big")
    return "test" if place < share * 2**64 else "train"


def on_side(pairs: Iterable[Preference], side: Side, share: float, seed: int = 0) -> Iterator[Preference]:
    """The pairs on one side of the split by prompt."""
    return (pair for pair in pairs if split(prompt_key(pair), share, seed) == side)
