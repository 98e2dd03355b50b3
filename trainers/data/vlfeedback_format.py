"""MMInstruction/VLFeedback as it is published: rows of rated answers, read in every shape they come in and written in
the same schema.

    seen = Seen()
    for row in read_rows(Path("VLFeedback"), seen=seen): ...      # a clone, a file, or a folder of shards
    print(seen.summary())

Ids repeat (subsets restart their numbering), so a row's key is its place. Ratings stay the strings they are. GPT-4V's
citation marks are cut out of answers. Images are found, never fetched: see support/image_folders.py.
"""

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

from support.errors import DataError, first_line
from support.files import atomic_path
from support.hub_progress import shown_as
from support.image_folders import ImageIndex, there, within
from support.records import PARQUET, Record, read_parquet, write_json, write_parquet
from support.shards import data_files, holds
from trainers.config.data import ASPECTS
from trainers.data.embedded import read_records
from trainers.data.image_export import ImageExporter, Unreadable, path_for_row
from trainers.data.pair_pictures import find_pictures
from trainers.data.rows import Completion, Row

REPOSITORY = "MMInstruction/VLFeedback"
REVISION = "0bd5e141605f55ce04e845c65ac2c716ef89e8ec"
"""The last commit with JSON lines and the image zip alone, before the same rows were added as parquet."""

_CITATION = re.compile(r"(?:(?<!\s)\s+)?【[^【】\n]{0,40}†[^【】\n]{0,80}】")


@dataclass(kw_only=True)
class Seen:
    """What was met while rows were read."""

    rows: int = 0
    repeated_ids: int = 0
    """Rows whose id an earlier row has."""
    shared_images: int = 0
    """Of these, rows whose pictures are those of an earlier row of that id: one of them may show the wrong one."""
    missing_images: int = 0
    """Pictures that are not there."""
    unreadable_images: int = 0
    """Pictures that are no images, met while what was read is written and left out; each once."""
    without_images: int = 0
    """Rows that name no picture at all."""
    without_completions: int = 0
    """Rows without any answer."""
    citations: int = 0
    """Answers that citation marks were cut out of."""
    non_numeric: int = 0
    """Ratings that are no number, such as "N/A"."""
    missing_ratings: int = 0
    """Aspects of VLFeedback that an answer has no rating for: not named, or with a rating of null."""
    unreadable_annotations: int = 0
    """Answers whose annotations are no mapping of aspects, and are left out: nobody rated them."""
    failed_answers: int = 0
    """Answers that are null, left out: a failed generation is not an empty answer."""
    torn_lines: int = 0
    """Last lines cut off while they were written, left out."""
    _pictures: dict[str, set[int]] = field(default_factory=dict, repr=False)
    """Id -> the pictures of its rows, hashed."""

    def to_json(self) -> dict[str, int]:
        """Every count by its name."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def summary(self) -> str:
        """One line: the rows, and every count that is not zero."""
        counts = {name: value for name, value in self.to_json().items() if value}
        rows = f"{counts.pop('rows', 0):,} rows"
        return "; ".join([rows, *(f"{value:,} {name.replace('_', ' ')}" for name, value in counts.items())])

    def count_incomplete(self) -> None:
        """Count a last line that was cut off."""
        self.torn_lines += 1

    def add(self, row: Row) -> None:
        """Count one row that was read."""
        self.rows += 1
        self.missing_images += sum(not there(picture) for picture in row.images)
        self.without_images += not row.images
        self.without_completions += not row.completions
        for completion in row.completions:
            self.non_numeric += sum(not _is_finite(rating) for rating in completion.ratings.values())
            self.missing_ratings += sum(aspect not in completion.ratings for aspect in ASPECTS)
        key = hash(
            tuple(
                picture.data or picture.reader or (picture.file, picture.member)
                for picture in row.images
                if there(picture)
            )
        )
        known = self._pictures.get(row.id)
        if known is None:
            self._pictures[row.id] = {key}
            return
        self.repeated_ids += 1
        self.shared_images += key in known and any(there(picture) for picture in row.images)
        known.add(key)


def _is_finite(rating: str) -> bool:
    try:
        return math.isfinite(float(rating))
    except ValueError:
        return False


def fetch_public(revision: str = REVISION) -> Path:
    """Download the published dataset (3.3 GB) or find it in the cache; the folder that `read_rows` takes."""
    return fetch(REPOSITORY, revision, ["vlfeedback_80k.jsonl", "merged_images.zip", "README.md"])


def fetch(repository: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """The folder of a dataset of the hub, with the files of these patterns, downloaded or from the cache; DataError."""
    from huggingface_hub import snapshot_download

    wanted = list(patterns)
    try:
        with shown_as(f"download {repository}"):
            return Path(snapshot_download(repository, repo_type="dataset", revision=revision, allow_patterns=wanted))
    except Exception as error:
        # The client raises httpx's, its own and the system's errors; each says what went wrong in its first line.
        raise DataError(
            f"{repository}{f' at {revision}' if revision else ''}: can't be fetched: {first_line(error)}"
        ) from error


def read_rows(data: Path, images: Path | None = None, *, seen: Seen | None = None) -> Iterator[Row]:
    """The rows of a file or folder, one at a time; `images` is a folder or zip of pictures, where they do not stand
    beside the data."""
    tally = Seen() if seen is None else seen
    files = data_files(data, _is_rows)
    places = within(data, files, images)
    index = 0
    for path in files:
        for number, record in enumerate(read_records(path, tally.count_incomplete), start=1):
            row = _read_row(record, index, places.of_file(path), tally, f"{path}, record {number}")
            if seen is not None:
                tally.add(row)
            yield row
            index += 1


def holds_rows(data: Path) -> bool:
    """Whether a file or folder has rated answers in VLFeedback's schema."""
    return holds(data, _is_rows)


def _is_rows(columns: Collection[str]) -> bool:
    return {"prompt", "completions"} <= set(columns)


def _read_row(record: Record, index: int, places: ImageIndex, seen: Seen, where: str) -> Row:
    prompt = record.get("prompt")
    if not isinstance(prompt, str) or "completions" not in record:
        lacking = "completions" if isinstance(prompt, str) else "prompt (text)"
        raise DataError(
            f"{where}: no {lacking} in it: this is no row of VLFeedback; it has {', '.join(record) or 'nothing'}"
        )
    given = record.get("id")
    id = str(index) if given is None else str(given)
    path = record.get("img_path")
    path = path if isinstance(path, str) else ""
    try:
        given_pictures = find_pictures(record, places, None, ("images", "image", "img_path"), name=path)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    pictures = places.with_absent(record, given_pictures)
    if not pictures and "id" in record and "img_path" not in record and "images" not in record:
        pictures = (places.find(f"merged_images/{id}.jpg"),)
    source = record.get("source")
    return Row(
        index=index,
        id=id,
        prompt=prompt,
        images=pictures,
        completions=_read_completions(record["completions"], seen, where),
        source=source if isinstance(source, str) else "",
    )


def _read_completions(value: Any, seen: Seen, where: str) -> tuple[Completion, ...]:
    """From a list of dicts (JSON lines), or a dict of lists (what `datasets` makes of it)."""
    if isinstance(value, dict):
        lengths = {key: len(column) for key, column in value.items() if isinstance(column, list)}
        if len(lengths) < len(value) or len(set(lengths.values())) > 1:
            raise DataError(f"{where}: completions as a dict need lists of one length, these are {lengths or value}")
        value = [dict(zip(value, items, strict=True)) for items in zip(*value.values(), strict=True)]
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise DataError(f"{where}: completions are a list of dicts or a dict of lists, not {type(value).__name__}")
    return tuple(completion for item in value if (completion := _read_completion(item, seen)) is not None)


def _read_completion(item: Mapping[str, Any], seen: Seen) -> Completion | None:
    response = item.get("response")
    if not isinstance(response, str):
        seen.failed_answers += 1
        return None
    if "†" in response:
        response, cut = _CITATION.subn("", response)
        seen.citations += cut > 0
    ratings: dict[str, str] = {}
    rationales: dict[str, str] = {}
    annotations = item.get("annotations") or {}
    if not isinstance(annotations, dict):
        seen.unreadable_annotations += 1
        annotations = {}
    for name, judged in annotations.items():
        aspect = _name_aspect(name)
        rating, rationale = judged, None
        if isinstance(judged, dict):
            rating = judged.get("Rating", judged.get("rating"))
            rationale = judged.get("Rationale", judged.get("rationale"))
        if rating is not None:
            ratings[aspect] = rating if isinstance(rating, str) else _write_number(rating)
        if rationale is not None:
            rationales[aspect] = str(rationale)
    return Completion(model=str(item.get("model") or ""), response=response, ratings=ratings, rationales=rationales)


def _write_number(rating: Any) -> str:
    """As it would be written by hand: 4.0 is 4, and no digit of another one is lost."""
    return str(int(rating) if isinstance(rating, float) and rating.is_integer() and abs(rating) < 1e15 else rating)


_BY_LETTERS = {re.sub(r"[^a-z]", "", aspect.lower()): aspect for aspect in ASPECTS}


@cache
def _name_aspect(name: str) -> str:
    """VLFeedback's aspect in any spelling of case, blanks and underscores; another one as it is."""
    return _BY_LETTERS.get(re.sub(r"[^a-z]", "", name.lower()), name)


def write_rows(rows: Iterable[Row], path: Path, *, embed_images: bool = False, seen: Unreadable | None = None) -> int:
    """Write rows in the public schema, `.jsonl` (completions a list of dicts) or `.parquet` (a dict of lists); returns
    how many.

    `embed_images` puts the pictures into the parquet file: a column `image`, or `images` where a row has several.
    Beside the public columns stand `images` where a row has several pictures, and `source` where it has one. A picture
    that is not there, or is no image (`seen` counts those), is not embedded; of several ones `image_names` and
    `image_there` tell which.
    """
    if path.suffix.lower() == ".jsonl" and not embed_images:
        return write_json((_write_row(row, path) for row in rows), path)
    if path.suffix.lower() == PARQUET:
        exporter = ImageExporter(path, structs=True, embed=embed_images, counts=seen)
        return _write_parquet(rows, path, _Layout(embed=embed_images), exporter)
    raise DataError(
        f"{path}: rows are written as .jsonl, or .parquet, which alone can hold the pictures (embed_images)"
    )


def _write_row(row: Row, path: Path) -> Record:
    paths = [path_for_row(picture, path) for picture in row.images]
    record: Record = {
        "id": row.id,
        "prompt": row.prompt,
        "models": [completion.model for completion in row.completions],
        "completions": [
            {"annotations": _write_annotations(completion), "model": completion.model, "response": completion.response}
            for completion in row.completions
        ],
        "img_path": paths[0] if paths else None,
    }
    if len(paths) > 1:
        record["images"] = paths
    return record | ({"source": row.source} if row.source else {})


def _write_annotations(completion: Completion) -> dict[str, dict[str, str | None]]:
    aspects = dict.fromkeys([*completion.ratings, *completion.rationales])
    return {
        aspect: {"Rating": completion.ratings.get(aspect), "Rationale": completion.rationales.get(aspect)}
        for aspect in sorted(aspects, key=lambda name: (ASPECTS.index(name) if name in ASPECTS else len(ASPECTS), name))
    }


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """Which columns stand beside the public ones."""

    embed: bool
    several: bool = False
    source: bool = False

    def widened_for(self, row: Row) -> "_Layout":
        return replace(self, several=self.several or len(row.images) > 1, source=self.source or bool(row.source))

    def schema(self) -> Any:
        """Arrow's, with what `datasets` needs to give images and the dict of lists."""
        from datasets import Features, Image, List, Value

        text = Value("string")
        judged = {aspect: {"Rating": text, "Rationale": text} for aspect in ASPECTS}
        columns: dict[str, Any] = {"id": text, "prompt": text, "models": List(text)}
        columns["completions"] = {"annotations": List(judged), "model": List(text), "response": List(text)}
        columns["img_path"] = text
        if self.several:
            columns["images"] = List(Image() if self.embed else text)
            columns |= {"image_names": List(text), "image_there": List(Value("bool"))} if self.embed else {}
        elif self.embed:
            columns["image"] = Image()
        return Features(columns | ({"source": text} if self.source else {})).arrow_schema

    def record(self, row: Row, path: Path, exporter: ImageExporter) -> Record:
        """One row's values."""
        record = _write_row(row, path)
        found = record["completions"]
        for completion in found:
            if other := completion["annotations"].keys() - set(ASPECTS):
                only = f"parquet has {', '.join(ASPECTS)} alone: write .jsonl"
                raise DataError(f"{path}: row {row.index} is rated on {min(other)!r}; {only}")
        keys = ("annotations", "model", "response")
        record["completions"] = {key: [completion[key] for completion in found] for key in keys}
        if self.embed:
            given = exporter.give(row.images)
            if self.several:
                record |= {"images": given.images, **given.names}
            else:
                record["image"] = given.images[0] if given.images else None
        elif self.several:
            record["images"] = [path_for_row(picture, path) for picture in row.images]
        return record

    def widen_record(self, record: Record) -> Record:
        """A record of a narrower layout in this one."""
        if self.several and "images" not in record:
            name = record["img_path"]
            one = record.pop("image", None) if self.embed else name
            record["images"] = [] if one is None else [one]
            if self.embed:
                known = name is not None
                record |= {"image_names": [name] * known, "image_there": [one is not None] * known}
        return record


def _write_parquet(rows: Iterable[Row], path: Path, layout: _Layout, exporter: ImageExporter) -> int:
    rest = iter(rows)
    count = 0
    with atomic_path(path) as temporary:
        written: Iterable[Record] = ()
        while True:
            # When a row needs more columns than the rows before it, all that is written is written again with them.
            stopped: list[Row] = []
            new = (layout.record(row, path, exporter) for row in _rows_that_fit(rest, layout, stopped))
            count = write_parquet(chain(written, new), temporary, layout.schema(), 100 if layout.embed else 1000)
            if not stopped:
                return count
            layout = layout.widened_for(stopped[0])
            rest = chain(stopped, rest)
            narrow = temporary.rename(temporary.with_name(f"{temporary.name}.narrow"))
            written = _read_and_delete(narrow, layout)


def _rows_that_fit(rows: Iterator[Row], layout: _Layout, stopped: list[Row]) -> Iterator[Row]:
    for row in rows:
        if layout.widened_for(row) != layout:
            stopped.append(row)
            return
        yield row


def _read_and_delete(narrow: Path, layout: _Layout) -> Iterator[Record]:
    try:
        yield from (layout.widen_record(record) for record in read_parquet(narrow))
    finally:
        narrow.unlink()
