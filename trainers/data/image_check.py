"""Checks every image of a dataset: what is missing or broken, and which rows of one id show one image.

print(check_images(read_rows(Path("VLFeedback"))).to_markdown())
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from support.image_folders import there
from support.markdown import cell, table
from trainers.data.image_hashes import HashCache
from trainers.data.rows import Row


@dataclass(frozen=True, kw_only=True)
class SharedPicture:
    """One picture that several rows of one id show."""

    id: str
    rows: tuple[int, ...]
    """Their places; where their prompts are about different images, all but one show the wrong one."""
    prompts: int
    """How many different prompts they have."""


@dataclass(frozen=True, kw_only=True)
class ImageReport:
    """What was found in the pictures of a dataset."""

    rows: int
    pictures: int
    """Different ones, by content."""
    shared: tuple[SharedPicture, ...]
    missing: tuple[int, ...]
    """Rows that have a picture that is not there."""
    broken: tuple[tuple[int, str], ...]
    """Rows that have one that can't be decoded, and why."""

    def to_markdown(self, shown: int = 20) -> str:
        """The counts, and the first `shown` of each kind of trouble."""
        parts = [
            f"{self.rows:,} rows, {self.pictures:,} different pictures: {len(self.missing):,} are not there, "
            f"{len(self.broken):,} can't be decoded, {len(self.shared):,} are shared by rows of one id."
        ]
        if self.shared:
            rows = [(cell(one.id), ", ".join(map(str, one.rows)), str(one.prompts)) for one in self.shared[:shown]]
            parts.append(_first_rows(("id", "rows of one picture", "different prompts"), rows, len(self.shared)))
        troubles = [(str(index), "is not there") for index in self.missing[:shown]]
        troubles += [(str(index), cell(why)) for index, why in self.broken[:shown]]
        if troubles:
            parts.append(_first_rows(("row", "its picture"), troubles, len(self.missing) + len(self.broken)))
        return "\n\n".join(parts)


def _first_rows(head: Sequence[str], rows: Sequence[Sequence[str]], count: int) -> str:
    """The rows that are shown, of `count` in all."""
    more = f"\n\n... and {count - len(rows):,} more" if count > len(rows) else ""
    return table(head, rows) + more


def check_images(rows: Iterable[Row], cache: HashCache | None = None) -> ImageReport:
    """Read and decode every image once; only digests are kept in memory."""
    cache = cache or HashCache()
    count = 0
    missing: list[int] = []
    broken: list[tuple[int, str]] = []
    groups: dict[tuple[str, str], dict[int, None]] = defaultdict(dict)
    """(id, digest) -> rows, in order."""
    prompts: dict[tuple[str, str], set[int]] = defaultdict(set)
    for row in rows:
        count += 1
        for image in row.images:
            if not there(image):
                missing.append(row.index)
                continue
            facts = cache.facts_of(image)
            if facts.problem:
                broken.append((row.index, facts.problem))
            if facts.digest:
                groups[row.id, facts.digest][row.index] = None
                prompts[row.id, facts.digest].add(hash(row.prompt))
    shared = tuple(
        SharedPicture(id=key[0], rows=tuple(rows_of), prompts=len(prompts[key]))
        for key, rows_of in groups.items()
        if len(rows_of) > 1
    )
    pictures = len({digest for _, digest in groups})
    return ImageReport(rows=count, pictures=pictures, shared=shared, missing=tuple(missing), broken=tuple(broken))
