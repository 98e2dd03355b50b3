"""Answers rated by a judge, wherever they are: in the folder of a run, or in a dataset that was rated before.

rated = rate_folder(Path("runs/x/data"), judge, way_of("0.1", "joint", "shuffled", 0), report=bars.report)
rated.files                 # ratings-JUDGE.jsonl, to be held against another judge's by `harness judge agree`
"""

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.evaluation.judge_cost import Counting, JudgePlan, planned
from support.errors import UsageError
from support.files import JsonLines
from tasks.judges.openai import OpenAIJudge
from tasks.judges.protocol import Judge
from trainers.config.data import RatingMode, TextOrder
from trainers.data.rows import Row
from trainers.data.vlfeedback_format import write_rows
from trainers.vlfeedback.annotation import (
    RatingCounts,
    annotate_folder,
    annotate_rows,
    published,
    ratings_file,
    rerated,
)


def plan_ratings(judge: OpenAIJudge, way: "RatingProtocol", data: "Path | Callable[[], Iterable[Row]]") -> JudgePlan:
    """What rating a folder's answers, or those of rows, on VLFeedback's three aspects will take."""
    from harness.datasets.rate import rate_folder, rate_rows
    from trainers.vlfeedback.annotation import TASK, ratings_file

    counting = Counting(judge)
    with tempfile.TemporaryDirectory() as nowhere:
        if isinstance(data, Path):
            into = Path(nowhere) / "ratings.jsonl"
            there = ratings_file(data, judge.model, way.mode, way.order)
            if there.exists():
                into.write_bytes(there.read_bytes())
            rate_folder(data, counting, way, into=into)
        else:
            rate_rows(data, counting, way, Path(nowhere), whole=False)
    return planned(counting, TASK)


Report = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class RatingProtocol:
    """How answers are rated."""

    part: int | float | None
    """So many instructions, or a share of them; None: all."""
    mode: RatingMode
    order: TextOrder
    seed: int


@dataclass(frozen=True, kw_only=True)
class RatedData:
    """What came of it."""

    files: tuple[Path, ...]
    counts: RatingCounts
    failed: int

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "ratings": self.files[0].as_posix(),
            "files": [file.as_posix() for file in self.files],
            **vars(self.counts),
        }

    def to_markdown(self) -> str:
        """For people."""
        counts = self.counts
        lines = [f"ratings: {self.files[0]} ({counts.rated} rated)"]
        if counts.unread:
            lines.append(
                "not read from replies: " + ", ".join(f"{count} x {aspect}" for aspect, count in counts.unread.items())
            )
        if counts.left_out:
            lines.append(f"left out, of fewer than two texts, or not of one picture: {counts.left_out}")
        if len(self.files) > 1:
            lines.append(f"the data's own ratings of the same rows: {self.files[1]}")
            lines.append(f"how the two agree: harness judge agree {self.files[1]} {self.files[0]}")
        return "\n".join(lines)


def protocol_of(part: str | None, mode: str, order: str, seed: int) -> RatingProtocol:
    """The options in their types; UsageError for what is none."""
    if mode not in ("joint", "per-aspect"):
        raise UsageError(f"--mode {mode!r}: known: joint, per-aspect")
    if order not in ("shuffled", "authors"):
        raise UsageError(f"--order {order!r}: known: shuffled, authors")
    found: int | float | None = None
    if part is not None:
        try:
            found = int(part) if part.isdecimal() else float(part)
        except ValueError:
            raise UsageError(f"--part {part!r}: must be a number of instructions, or a share such as 0.1") from None
    return RatingProtocol(part=found, mode=mode, order=order, seed=seed)  # type: ignore[arg-type]


def rate_folder(
    folder: Path, judge: Judge, way: RatingProtocol, *, report: Report = lambda *_: None, into: Path | None = None
) -> RatedData:
    """Rate the answers in a run's data folder that the judge has not rated yet."""
    counts, path = RatingCounts(), into or ratings_file(folder, judge.model, way.mode, way.order)
    failed = annotate_folder(
        folder,
        judge,
        seed=way.seed,
        done=lambda done, total: report("rate", done, total),
        into=path,
        part=way.part,
        mode=way.mode,
        order=way.order,
        counts=counts,
    )
    return RatedData(files=(path,), counts=counts, failed=failed)


def rate_rows(
    rows: Callable[[], Iterable[Row]],
    judge: Judge,
    way: RatingProtocol,
    out: Path,
    *,
    report: Report = lambda *_: None,
    whole: bool = True,
) -> RatedData:
    """Rate the answers of rows, whatever ratings they came with, into the folder `out`.

    With `whole` also what the rows came with in the same form, and the rows with the new ratings in VLFeedback's
    schema.
    """
    counts, path = RatingCounts(), ratings_file(out, judge.model, way.mode, way.order)
    so_far = 0

    def done(more: int) -> None:
        nonlocal so_far
        so_far += more
        report("rate", so_far, way.part if isinstance(way.part, int) else 0)

    failed = annotate_rows(
        rows(), judge, path, seed=way.seed, part=way.part, mode=way.mode, order=way.order, done=done, counts=counts
    )
    if not whole:
        return RatedData(files=(path,), counts=counts, failed=failed)
    found = JsonLines(path)
    before, after = out / "ratings-published.jsonl", path.with_name(path.name.replace("ratings-", "rows-", 1))
    published(rows(), found, before)
    write_rows(rerated(rows(), found), after)
    return RatedData(files=(path, before, after), counts=counts, failed=failed)
