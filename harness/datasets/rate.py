"""Answers rated by a judge: those in the folder of a run, or those of a dataset that was rated before.

rated = rate_folder(Path("runs/x/data"), judge, protocol_of("0.1", "joint", "shuffled", 0))
rated.files                 # ratings-JUDGE.jsonl, to be compared with another judge's by `harness judge agree`
"""

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

from harness.evaluation.judge_cost import Counting, JudgePlan, planned
from support.errors import UsageError
from support.files import JsonLines
from tasks.judges.openai import OpenAIJudge
from tasks.judges.protocol import Judge
from trainers.config.data import RatingMode, TextOrder
from trainers.data.rows import Row
from trainers.data.vlfeedback_format import write_rows
from trainers.vlfeedback.annotation import (
    TASK,
    RatingProtocol,
    annotate_folder,
    annotate_rows,
    ratings_file,
    with_ratings,
    write_published,
)
from trainers.vlfeedback.rating_counts import RatingCounts


def plan_ratings(judge: OpenAIJudge, protocol: RatingProtocol, data: Path | Callable[[], Iterable[Row]]) -> JudgePlan:
    """What rating a folder's answers, or those of rows, on VLFeedback's three aspects will take."""
    counting = Counting(judge)
    with tempfile.TemporaryDirectory() as nowhere:
        if isinstance(data, Path):
            into = Path(nowhere) / "ratings.jsonl"
            there = ratings_file(data, judge.model, protocol.mode, protocol.order)
            if there.exists():
                into.write_bytes(there.read_bytes())
            rate_folder(data, counting, protocol, into=into)
        else:
            rate_rows(data, counting, protocol, Path(nowhere), with_rows=False)
    return planned(counting, TASK)


@dataclass(frozen=True, kw_only=True)
class RatedData:
    """The files of ratings that were written, and the counts."""

    files: tuple[Path, ...]
    counts: RatingCounts

    @property
    def failed(self) -> int:
        """Calls and images that failed: tried again by the same command."""
        return self.counts.missing

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        files = [file.as_posix() for file in self.files]
        return {"ratings": files[0], "files": files, **self.counts.to_json()}

    def to_markdown(self) -> str:
        """For people."""
        counts = self.counts
        lines = [f"ratings: {self.files[0]} ({counts.rated} rated)"]
        if counts.unread:
            unread = ", ".join(f"{count} x {aspect}" for aspect, count in counts.unread.items())
            lines.append(f"not read from replies: {unread}")
        if counts.left_out:
            lines.append(f"left out, of fewer than two texts, or not of one picture: {counts.left_out}")
        if len(self.files) > 1:
            lines.append(f"the data's own ratings of the same rows: {self.files[1]}")
            lines.append(f"how the two agree: harness judge agree {self.files[1]} {self.files[0]}")
        return "\n".join(lines)


def protocol_of(part: str | None, mode: str, order: str, seed: int) -> RatingProtocol:
    """The options in their types; UsageError for what is none."""
    for option, value, known in (("mode", mode, get_args(RatingMode)), ("order", order, get_args(TextOrder))):
        if value not in known:
            raise UsageError(f"--{option} {value!r}: known: {', '.join(known)}")
    found: int | float | None = None
    if part is not None:
        try:
            found = int(part) if part.isdecimal() else float(part)
        except ValueError:
            raise UsageError(f"--part {part!r}: must be a number of instructions, or a share such as 0.1") from None
    return RatingProtocol(part=found, mode=cast(RatingMode, mode), order=cast(TextOrder, order), seed=seed)


def rate_folder(folder: Path, judge: Judge, protocol: RatingProtocol, *, into: Path | None = None) -> RatedData:
    """Rate the answers in a run's data folder that the judge has not rated yet."""
    path = into or ratings_file(folder, judge.model, protocol.mode, protocol.order)
    return RatedData(files=(path,), counts=annotate_folder(folder, judge, protocol, into=path))


def rate_rows(
    rows: Callable[[], Iterable[Row]], judge: Judge, protocol: RatingProtocol, out: Path, *, with_rows: bool = True
) -> RatedData:
    """Rate the answers of rows, whatever ratings they came with, into the folder `out`.

    `with_rows` writes also the ratings that the rows came with, in the same form, and the rows with the new ratings in
    VLFeedback's schema.
    """
    path = ratings_file(out, judge.model, protocol.mode, protocol.order)
    counts = annotate_rows(rows(), judge, path, protocol)
    if not with_rows:
        return RatedData(files=(path,), counts=counts)
    found = JsonLines(path)
    before, after = out / "ratings-published.jsonl", path.with_name(path.name.replace("ratings-", "rows-", 1))
    write_published(rows(), found, before)
    write_rows(with_ratings(rows(), found), after)
    return RatedData(files=(path, before, after), counts=counts)
