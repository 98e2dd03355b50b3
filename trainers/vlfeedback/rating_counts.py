"""What became of the instructions that a judge was to rate."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from support.files import JsonLines
from tasks.judges.reasons import Reason, list_reasons, quote_reply
from trainers.config.data import ASPECTS


@dataclass(kw_only=True)
class RatingCounts:
    """What became of the instructions of one call."""

    rated: int = 0
    """Now or before."""
    failed: int = 0
    """Judge calls without a reply; made again next time."""
    pictures: int = 0
    """Instructions whose image is missing, broken or too large; tried again next time."""
    left_out: int = 0
    """Instructions that can't be rated so: of fewer than two texts, or of no image or several."""
    unread: Counter[str] = field(default_factory=Counter)
    """Aspect -> texts whose rating could not be read from the reply."""
    unreadable: int = 0
    """Rated instructions of which not one rating could be read."""
    example: str = ""
    """The beginning of the first reply of which a rating could not be read."""
    lost: list[tuple[str, str]] = field(default_factory=list)
    """Instructions and why their calls or images failed."""
    may_pass: bool = False
    """Whether asking again can help."""
    without_server: int = 0
    """Rated before, by a judge of this name whose server was not kept."""

    def add(self, row: Mapping[str, Any]) -> None:
        """Count a row of ratings."""
        self.rated += 1
        self.unread += unread_in(row)
        self.unreadable += is_unreadable(row)
        if not self.example and row.get("unread"):
            self.example = quote_reply(str(row["unread"][0]))

    def unread_beyond(self, share: float) -> str:
        """A line where more than this share of the replies could not be read; else empty."""
        if self.unreadable <= share * self.rated:
            return ""
        return (
            f"{self.unreadable} of {self.rated} instructions have no rating that could be read from the judge's reply; "
            f"the first: {self.example}"
        )

    @property
    def missing(self) -> int:
        """Calls and images that failed: tried again next time."""
        return self.failed + self.pictures

    @property
    def reasons(self) -> list[Reason]:
        """Why, with counts; the example is an instruction."""
        return list_reasons(self.lost)

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        shown = {name: value for name, value in vars(self).items() if name != "lost"}
        return shown | {"reasons": [asdict(reason) for reason in self.reasons]}


def is_unreadable(row: Mapping[str, Any]) -> bool:
    """Whether not one rating of a row could be read."""
    return all(rating is None for given in row["ratings"].values() for rating in given.values())


def unread_in(row: Mapping[str, Any]) -> Counter[str]:
    """Aspect -> texts of one row whose rating could not be read from the judge's reply."""
    return Counter(aspect for given in row["ratings"].values() for aspect, rating in given.items() if rating is None)


def count_unread(rows: JsonLines) -> dict[str, int]:
    """Aspect -> texts whose rating could not be read from the judge's reply, over a file of ratings."""
    total = sum((unread_in(row) for row in rows.by_id.values()), Counter())
    return {aspect: total[aspect] for aspect in ASPECTS}
