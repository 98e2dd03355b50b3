"""Which pairs can be trained on: two different answers, and pictures that are there and open.

    pair_filter = PairFilter(dataset, HashCache())
    pairs = pair_filter.usable(pairs)       # DataError where [dataset] does not let pairs be left out
    pair_filter.left_out                    # why -> ids of the pairs
    pair_filter.facts                       # what is known of each picture

What can't be used is left out, counted and named, as far as missing_images and max_bad_rows allow.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from support.errors import DataError, first_few
from support.image_folders import there
from support.images import ImageRef
from trainers.config.data import PreferenceFile
from trainers.data.image_hashes import HashCache, ImageFacts
from trainers.data.rows import Preference

EQUAL = "of two equal answers"
EMPTY = "with an empty answer"
ABSENT = "for want of their picture"
BROKEN = "whose picture does not open"
MARKED = "with a mark of a picture that is not theirs in the prompt"


def why_useless(pair: Preference, *, chosen_alone: bool = False) -> str:
    """Why there is nothing to learn from a pair's answers; "" if there is."""
    answers = [pair.chosen.strip()] if chosen_alone else [pair.chosen.strip(), pair.rejected.strip()]
    if not all(answers):
        return EMPTY
    return EQUAL if not chosen_alone and answers[0] == answers[1] else ""


class PairFilter:
    """The pairs of one [dataset] that can be trained on, and why others can't."""

    def __init__(self, dataset: PreferenceFile, cache: HashCache, *, chosen_alone: bool = False) -> None:
        """`chosen_alone`: the rejected answers are not learnt from, and may be anything."""
        self.dataset, self.cache, self.chosen_alone = dataset, cache, chosen_alone
        self.left_out: dict[str, list[str]] = {}
        self.skipped = 0
        self.total = 0
        """Rows that were met."""
        self.facts: dict[ImageRef, ImageFacts] = {}

    def usable(self, pairs: Sequence[Preference], skipped: int = 0) -> list[Preference]:
        """The pairs that can be trained on; DataError for more rows without use, `skipped` among them, than allowed."""
        self.skipped += skipped
        self.total += len(pairs) + skipped
        left = self._leave_out(pairs, EMPTY, lambda pair: self._why_useless(pair) == EMPTY)
        left = self._leave_out(left, EQUAL, lambda pair: self._why_useless(pair) == EQUAL)
        left = self._leave_out_absent(left)
        left = self._leave_out_broken(left)
        most, bad = self.dataset.most_bad(self.total), self.skipped + sum(map(len, self.left_out.values()))
        if most is not None and bad > most:
            why = [
                *([f"{self.skipped:,} that hold no pair"] if self.skipped else []),
                *describe_left_out(self.left_out),
            ]
            raise DataError(
                f"{self.dataset.read}: {bad:,} rows can't be used: {'; '.join(why)}; "
                f"max_bad_rows = {self.dataset.max_bad_rows} allows no more"
            )
        return left

    def _why_useless(self, pair: Preference) -> str:
        return why_useless(pair, chosen_alone=self.chosen_alone)

    def _leave_out(
        self, pairs: Sequence[Preference], why: str, is_bad: Callable[[Preference], bool]
    ) -> list[Preference]:
        found = [is_bad(pair) for pair in pairs]
        if any(found):
            self.left_out.setdefault(why, []).extend(pair.id for pair, bad in zip(pairs, found, strict=True) if bad)
        return [pair for pair, bad in zip(pairs, found, strict=True) if not bad]

    def leave_out_marked(self, pairs: Sequence[Preference], rows: int) -> bool:
        """Leave out pairs whose prompt has marks that do not fit, of so many rows, if the recipe lets them be."""
        if self._refuses(len(pairs), self.total + rows, "image_tokens"):
            return False
        self.total += len(pairs)
        self._leave_out(pairs, MARKED, lambda pair: True)
        return True

    def _refuses(self, lost: int, rows: int, key: str) -> bool:
        """Whether so many more pairs that can't be shown end the run; `key` is what says so of their kind."""
        if self.dataset.max_bad_rows is not None:
            return False
        spared = sum(len(self.left_out.get(why, ())) for why in (ABSENT, BROKEN, MARKED))
        return lost + spared > self.dataset.most_spared(rows, key)

    @property
    def _refuses_pictures(self) -> bool:
        return self.dataset.missing_images == "refuse"

    def _leave_out_absent(self, pairs: Sequence[Preference]) -> list[Preference]:
        lost = [pair for pair in pairs if not all(map(there, pair.images))]
        if self._refuses_pictures and self._refuses(len(lost), self.total, "missing_images"):
            absent = [image for pair in lost for image in pair.images if not there(image)]
            named = ", ".join(repr(name) for name in dict.fromkeys(image.name for image in absent))
            more = " ..." if len(named) > 200 else ""
            kinds = {image.problem: image.why for image in reversed(absent) if image.problem}
            why = ", ".join(kinds[problem] for problem in sorted(kinds))
            raise DataError(
                f"{self.dataset.read}: {len(lost):,} of {len(pairs):,} pairs lack their picture: {named[:200]}{more}"
                f"{f' ({why})' if why else ''}; "
                "name their folder or zip as images, or leave them out by missing_images = 'drop' or max_bad_rows"
            )
        return self._leave_out(pairs, ABSENT, lambda pair: not all(map(there, pair.images)))

    def _leave_out_broken(self, pairs: Sequence[Preference]) -> list[Preference]:
        """An image that does not open would end the training when it is reached."""
        self.facts |= facts_of(pairs, self.cache)
        problems = {image: facts.problem for image, facts in self.facts.items() if facts.problem}
        lost = [pair for pair in pairs if any(image in problems for image in pair.images)]
        if self._refuses_pictures and self._refuses(len(lost), self.total, "missing_images"):
            first = next(image for image in lost[0].images if image in problems)
            raise DataError(
                f"{self.dataset.read}: the picture of {len(lost):,} of {len(pairs):,} pairs does not open: "
                f"{first_few([pair.id for pair in lost])}; the first is {first.name!r}: {problems[first]}; "
                "mend them, or leave them out by missing_images = 'drop' or max_bad_rows"
            )
        return self._leave_out(pairs, BROKEN, lambda pair: any(image in problems for image in pair.images))


def facts_of(pairs: Iterable[Preference], cache: HashCache) -> dict[ImageRef, ImageFacts]:
    """What is known of each picture of the pairs; each is read once."""
    images = list(dict.fromkeys(image for pair in pairs for image in pair.images))
    return dict(zip(images, cache.facts_of_all(images), strict=True))


def describe_left_out(left_out: Mapping[str, Sequence[str]]) -> list[str]:
    """Each reason for which pairs are left out: how many, and the first of them."""
    return [f"{len(ids):,} left out {why} ({first_few(ids, 3)})" for why, ids in left_out.items()]
