"""Says how many kept answers were used again, and when they were asked for.

reuse = Reuse()
reuse.add("2026-11-30T10:12:00+00:00", count=412)
reuse.take("answer", "answers")     # "412 answers from the store, asked 2026-11-30 10:12 UTC"; then it is empty
"""


class Reuse:
    """What was taken from a store since `take`."""

    def __init__(self) -> None:
        self.count = 0
        self._first = self._last = ""

    def add(self, asked: str, count: int = 1) -> None:
        """So many were used that were asked for at this time (ISO 8601, UTC)."""
        self.count += count
        self._first = min(self._first or asked, asked)
        self._last = max(self._last, asked)

    def take(self, one: str, many: str) -> str:
        """One line about all so far, empty if there were none; what comes next is counted anew."""
        count, first, last = self.count, _cut_to_minute(self._first), _cut_to_minute(self._last)
        self.count, self._first, self._last = 0, "", ""
        asked = first if first == last else f"{first} to {last}"
        return f"{count} {one if count == 1 else many} from the store, asked {asked} UTC" if count else ""


def _cut_to_minute(time: str) -> str:
    return time[:16].replace("T", " ")
