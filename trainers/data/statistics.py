"""What is in rated data, counted in one pass and bounded memory.

    statistics = Statistics()
    for row in rows: statistics.add(row)             # or one a shard, then merge
    statistics.to_json()                             # as tables: statistics_tables.tables_of(statistics)

Ratings by aspect and model, pairs by rule, which model beats which, whether longer answers win, and what could not be
read as a number; beside the published figures.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import combinations
from typing import Any

from trainers.config.data import ASPECTS
from trainers.data.pair_rules import RULES, NamedRule, PairCounts, Ranking, mean_rating, model_key, rank, take
from trainers.data.published import PUBLISHED_RATINGS, PUBLISHED_RED_TEAM, RED_TEAM, published_model
from trainers.data.rows import Completion, Row
from trainers.data.scores import number

NAMES = 100
"""At most this many models, and as many sources, are told apart; the rest is counted as OTHERS."""
OTHERS = "(others)"
LONGEST = 20_000
"""Characters from which on lengths are not told apart."""
EXAMPLES = 12
"""So many different ratings that are no number are shown."""

NOT_A_NUMBER, OFF_SCALE, NOT_RATED = "not a number", "off the scale", "not rated"
POINTS = ("1", "2", "3", "4", "5")

COUNTED_RULES = tuple(rule for rule in RULES.values() if rule.name not in ("weighted", "strongest"))
"""The rules whose pairs are counted: those that need nothing else said."""


@dataclass(frozen=True, kw_only=True)
class LengthBias:
    """Whether longer answers are rated higher; lengths in characters."""

    pairs: int
    """Pairs of the authors' rule."""
    longer: float | None
    """Share whose chosen answer is the longer one; None without pairs."""
    equal: float | None
    """Share whose answers are equally long."""
    ratio: float | None
    """Chosen to rejected, geometric mean over the pairs where neither is empty."""
    correlation: float | None
    """Spearman's, of length and mean rating over all answers; None where either is the same for all."""


@dataclass(kw_only=True)
class Statistics:
    """Counts that grow by `add`, and what they say."""

    rules: tuple[NamedRule, ...] = COUNTED_RULES
    rows: int = 0
    sources: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    """Model -> answers."""
    characters: Counter[str] = field(default_factory=Counter)
    """Model -> characters of all its answers."""
    empty: Counter[str] = field(default_factory=Counter)
    """Model -> answers without a character that is not white."""
    answers_per_row: Counter[int] = field(default_factory=Counter)
    prompt_characters: Counter[int] = field(default_factory=Counter)
    """Length, at most LONGEST -> prompts."""
    ratings: Counter[tuple[str, str, bool, str]] = field(default_factory=Counter)
    """(aspect, model, red team, rating) -> answers; the rating in points, or NOT_A_NUMBER, OFF_SCALE, NOT_RATED."""
    not_numbers: Counter[str] = field(default_factory=Counter)
    """The first EXAMPLES different ratings that are no number -> how often."""
    wins: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(better model, worse model) -> pairs of the authors' rule."""
    ties: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(model, model), by name -> ties of the authors' rule."""
    lengths: Counter[tuple[int, float]] = field(default_factory=Counter)
    """(characters of the answer, at most LONGEST; mean rating) -> answers."""
    longer: Counter[str] = field(default_factory=Counter)
    """ "chosen", "rejected" or "neither" -> pairs of the authors' rule in which it is the longer."""
    log_ratio: float = 0.0
    """Sum of the logarithms of chosen to rejected length."""
    log_ratios: int = 0
    """How many are in that sum."""
    pairs: dict[str, PairCounts] = field(default_factory=dict)
    """Rule -> its counts."""

    def __post_init__(self) -> None:
        for rule in self.rules:
            self.pairs.setdefault(rule.name, PairCounts())

    def add(self, row: Row) -> None:
        """Count one row."""
        self.rows += 1
        _bounded(self.sources, row.source)
        self.answers_per_row[len(row.completions)] += 1
        self.prompt_characters[min(len(row.prompt), LONGEST)] += 1
        red = model_key(row.source) in RED_TEAM
        models = [_bounded(self.answers, answer.model) for answer in row.completions]
        for answer, model in zip(row.completions, models, strict=True):
            self._add_answer(answer, model, red)
        self._add_matches(row, models, ranking := rank(row, RULES["authors"]))
        # Rules of one score share the ranking, which is most of the work.
        rankings = {RULES["authors"].compared: ranking}
        for rule in self.rules:
            key = rule.compared
            if key not in rankings:
                rankings[key] = rank(row, rule)
            take(row, rule, rankings[key], self.pairs[rule.name])

    def _add_answer(self, answer: Completion, model: str, red: bool) -> None:
        length = len(answer.response)
        self.characters[model] += length
        if not answer.response.strip():
            self.empty[model] += 1
        for aspect in ASPECTS:
            rating = answer.ratings.get(aspect)
            points = NOT_RATED if rating is None else _points(rating)
            self.ratings[aspect, model, red, points] += 1
            shown = rating in self.not_numbers or len(self.not_numbers) < EXAMPLES
            if points == NOT_A_NUMBER and rating is not None and shown:
                self.not_numbers[rating] += 1
        mean = mean_rating(answer.ratings)
        if mean is not None and 0 <= mean.value <= 10:
            self.lengths[min(length, LONGEST), round(mean.value, 2)] += 1

    def _add_matches(self, row: Row, models: Sequence[str], ranking: Ranking) -> None:
        for gap in ranking.pairs:
            chosen, rejected = models[gap.chosen], models[gap.rejected]
            if chosen != rejected:
                self.wins[chosen, rejected] += 1
            long, short = len(row.completions[gap.chosen].response), len(row.completions[gap.rejected].response)
            self.longer["chosen" if long > short else "rejected" if long < short else "neither"] += 1
            if long and short:
                self.log_ratio += math.log(long / short)
                self.log_ratios += 1
        if len(ranking.pairs) < math.comb(ranking.scored, 2):
            scores = [mean_rating(answer.ratings) for answer in row.completions]
            for (i, first), (j, second) in combinations(enumerate(scores), 2):
                if first is not None and first == second and models[i] != models[j]:
                    self.ties[min(models[i], models[j]), max(models[i], models[j])] += 1

    def merge(self, other: "Statistics") -> None:
        """Take in the statistics of other rows, made with the same rules."""
        if [rule.name for rule in self.rules] != [rule.name for rule in other.rules]:
            raise ValueError("statistics of different rules cannot be merged")
        self.rows += other.rows
        self.log_ratio += other.log_ratio
        self.log_ratios += other.log_ratios
        for name, value in vars(other).items():
            if isinstance(value, Counter):
                getattr(self, name).update(value)
        for name, counts in other.pairs.items():
            self.pairs[name].add(counts)

    def models(self) -> list[str]:
        """Model names, the highest mean rating first, those without any last."""
        return sorted(self.answers, key=lambda model: (-(self.average(model) or -math.inf), model))

    def distribution(self, aspect: str, *, model: str | None = None, red_team: bool | None = None) -> Counter[str]:
        """Rating -> answers, of one model or all, of red-team rows, the others (False) or all."""
        found: Counter[str] = Counter()
        for (of, by, red, points), count in self.ratings.items():
            if of == aspect and model in (None, by) and red_team in (None, red):
                found[points] += count
        return found

    def average(self, model: str) -> float | None:
        """The mean of the aspects' means, as in the published table; None where nothing is rated."""
        means = [mean for aspect in ASPECTS if (mean := mean_of(self.distribution(aspect, model=model))) is not None]
        return sum(means) / len(means) if means else None

    def win_rate(self, model: str, other: str) -> float | None:
        """Share of the pairs of the two in which `model` is chosen; None where there is none."""
        wins, losses = self.wins[model, other], self.wins[other, model]
        return wins / (wins + losses) if wins + losses else None

    def length_bias(self) -> LengthBias:
        """Whether longer answers are rated higher."""
        pairs = sum(self.longer.values())
        return LengthBias(
            pairs=pairs,
            longer=self.longer["chosen"] / pairs if pairs else None,
            equal=self.longer["neither"] / pairs if pairs else None,
            ratio=math.exp(self.log_ratio / self.log_ratios) if self.log_ratios else None,
            correlation=spearman(self.lengths),
        )

    def to_json(self) -> dict[str, Any]:
        """All of it as plain data; shares are 0 to 1, published shares too."""
        models = self.models()
        return {
            "rows": self.rows,
            "answers": sum(self.answers.values()),
            "answers_per_row": {str(count): rows for count, rows in sorted(self.answers_per_row.items())},
            "sources": dict(self.sources.most_common()),
            "prompt_characters": quantiles(self.prompt_characters),
            "ratings": {
                aspect: _distribution_json(self.distribution(aspect), PUBLISHED_RATINGS[aspect]) for aspect in ASPECTS
            },
            "red_team_ethics": _distribution_json(self.distribution(ASPECTS[1], red_team=True), PUBLISHED_RED_TEAM),
            "not_numbers": dict(self.not_numbers.most_common()),
            "models": {model: self._model_json(model) for model in models},
            "pairs": {rule: counts.to_json() for rule, counts in self.pairs.items()},
            "wins": {
                model: {
                    other: {
                        "wins": self.wins[model, other],
                        "losses": self.wins[other, model],
                        "ties": self.ties[min(model, other), max(model, other)],
                        "rate": self.win_rate(model, other),
                    }
                    for other in models
                    if other != model
                }
                for model in models
            },
            "length": vars(self.length_bias()),
        }

    def _model_json(self, model: str) -> dict[str, Any]:
        published = published_model(model)
        rated = {aspect: self.distribution(aspect, model=model) for aspect in ASPECTS}
        return {
            "answers": self.answers[model],
            "means": {aspect: mean_of(found) for aspect, found in rated.items()},
            "average": self.average(model),
            "published": {"name": published.name, "means": published.means(), "average": published.average}
            if published
            else None,
            "characters": self.characters[model] / self.answers[model],
            "empty": self.empty[model],
            "unusable": {
                aspect: {what: found[what] for what in (NOT_A_NUMBER, OFF_SCALE, NOT_RATED)}
                for aspect, found in rated.items()
            },
        }


def gather(rows: Iterable[Row], rules: Sequence[NamedRule] = COUNTED_RULES) -> Statistics:
    """The statistics of these rows."""
    statistics = Statistics(rules=tuple(rules))
    for row in rows:
        statistics.add(row)
    return statistics


def _bounded(counter: Counter[str], name: str) -> str:
    # Names come from the data: a file in which every row names another model must not fill memory.
    name = name if name in counter or len(counter) < NAMES else OTHERS
    counter[name] += 1
    return name


@lru_cache(maxsize=4096)
def _points(rating: str) -> str:
    value = number(rating)
    if value is None:
        return NOT_A_NUMBER
    return f"{round(value, 2):g}" if 0 <= value <= 10 else OFF_SCALE


def mean_of(distribution: Mapping[str, int]) -> float | None:
    """Mean rating in points; None where none is a number."""
    counted = [
        (float(points), count)
        for points, count in distribution.items()
        if points not in (NOT_A_NUMBER, OFF_SCALE, NOT_RATED)
    ]
    total = sum(count for _, count in counted)
    return sum(points * count for points, count in counted) / total if total else None


def shares(distribution: Mapping[str, int]) -> tuple[float, ...]:
    """% of ratings 1 to 5 among those that are one of them; empty where none is."""
    total = sum(distribution.get(points, 0) for points in POINTS)
    return tuple(100 * distribution.get(points, 0) / total for points in POINTS) if total else ()


def quantiles(lengths: Mapping[int, int]) -> dict[str, int]:
    """Smallest, median, 90th and 99th percentile, and largest of what was counted; empty where nothing was."""
    total, seen, found = sum(lengths.values()), 0, dict[str, int]()
    wanted = [("least", 0.0), ("median", 0.5), ("90%", 0.9), ("99%", 0.99), ("most", 1.0)]
    for length, count in sorted(lengths.items()):
        seen += count
        while wanted and seen >= max(wanted[0][1] * total, 1):
            found[wanted.pop(0)[0]] = length
    return found


def spearman(pairs: Mapping[tuple[int, float], int]) -> float | None:
    """Rank correlation of counted (x, y), equal values sharing their mean rank; None where x or y never changes."""
    xs, ys = Counter[float](), Counter[float]()
    for (x, y), count in pairs.items():
        xs[x] += count
        ys[y] += count
    if len(xs) < 2 or len(ys) < 2:
        return None
    rank_x, rank_y = _ranks(xs), _ranks(ys)
    covariance = sum(count * rank_x[x] * rank_y[y] for (x, y), count in pairs.items())
    spread_x = sum(count * rank_x[x] ** 2 for x, count in xs.items())
    spread_y = sum(count * rank_y[y] ** 2 for y, count in ys.items())
    return covariance / math.sqrt(spread_x * spread_y)


def _ranks(values: Mapping[float, int]) -> dict[float, float]:
    """Value -> its rank less the mean rank."""
    total, below, found = sum(values.values()), 0, dict[float, float]()
    for value, count in sorted(values.items()):
        found[value] = below + (count - total) / 2
        below += count
    return found


def _distribution_json(found: Mapping[str, int], published: Sequence[float]) -> dict[str, Any]:
    return {
        "counts": {points: found[points] for points in sorted(found)},
        "shares": [round(share / 100, 6) for share in shares(found)],
        "published": [round(share / 100, 6) for share in published],
        "mean": mean_of(found),
    }
