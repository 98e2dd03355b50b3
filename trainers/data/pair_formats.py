"""Preference pairs in the formats of others: TRL's columns, POVID, RLHF-V, RLAIF-V and LLaMA-Factory's sharegpt
ranking.

    write_pairs(pairs, Path("pairs.parquet"))                     # TRL's columns; `datasets` opens the pictures
    for pair in read_pairs(Path("RLAIF-V-Dataset")): ...          # the form is told by the columns

| form | records | pictures a pair | where ids, models, margin and ratings stand |
|---|---|---|---|
| trl | images, prompt, chosen, rejected (conversations) | any number | columns of their own |
| povid | id, image, conversations, rejected_conversations | any number | further keys |
| sharegpt | conversations, chosen, rejected, images | any number | further keys |
| rlhf-v | image, text (JSON of question, chosen, rejected), origin_split, idx, ... | at most one | in the JSON of
origin_split |
| rlaif-v | image, question, chosen, rejected, origin_split, idx, ... | at most one | in the JSON of origin_split |

Pictures are given as paths that open: absolute ones in parquet, for `datasets` knows no others; in JSON relative ones
where they are below the file's folder, which can be moved with it (`datasets` opens those from that folder as the
working directory). Pictures of zips and tables are copied into `<stem>_images/` beside the file; with `embed_images`
all are bytes in parquet, and such copies in JSON. Without `copy_images` nothing is copied: a zip's are given as
`zip://MEMBER::ZIP`, which `datasets` opens too, but by reading the zip's whole directory for each; a table's are not
given. A picture that is not there, or is no image, is not among the images, so that what is written
loads: all are named in `image_names`, with true or false in `image_there`.
A pair is one prompt and two answers: what has a history, a system message or a tool turn is skipped, counted and named,
or refused where nobody counts.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support.errors import DataError, did_you_mean
from support.image_folders import there, within
from support.records import PARQUET, Record, suffix, write_json
from support.shards import data_files
from trainers.data.conversations import IMAGE_TOKEN, NoPair, check_columns
from trainers.data.embedded import read_records
from trainers.data.image_export import ImageExporter, Unreadable
from trainers.data.pair_keys import PairKeys
from trainers.data.pair_parquet import write_answers, write_rlv, write_trl
from trainers.data.pair_pictures import unread_columns
from trainers.data.pair_records import FORMS, Form
from trainers.data.rows import Preference

if TYPE_CHECKING:
    from trainers.data.pair_rules import BestAnswer

__all__ = ["FORMS", "IMAGE_TOKEN", "SeenPairs", "read_pairs", "write_best", "write_pairs"]

_GROUP = {False: 5000, True: 100}
"""Pairs in a row group of parquet: with their images there are few."""


@dataclass(kw_only=True)
class SeenPairs:
    """What was met while pairs were read."""

    pairs: int = 0
    missing_images: int = 0
    """Pictures that are not there."""
    unreadable_images: int = 0
    """Pictures that are no images, met while pairs were written and left out; each once."""
    torn_lines: int = 0
    """Last lines cut off while they were written, left out."""
    without_images: int = 0
    """Pairs that name no picture at all."""
    unread: Counter[str] = field(default_factory=Counter)
    """Columns that name pictures beside those that are read -> pairs."""
    skipped: Counter[str] = field(default_factory=Counter)
    """Why records gave no pair -> how many."""
    first_skipped: dict[str, list[str]] = field(default_factory=dict)
    """The same -> the first few of their places."""

    def summary(self) -> str:
        """One line: the pairs, and every count that is not zero."""
        parts = [f"{self.pairs:,} pairs"]
        parts += [f"{self.missing_images:,} missing images"] * (self.missing_images > 0)
        parts += [f"{self.unreadable_images:,} unreadable images"] * (self.unreadable_images > 0)
        parts += [f"{self.without_images:,} without a picture"] * (self.without_images > 0)
        parts += [f"{self.torn_lines:,} torn lines"] * (self.torn_lines > 0)
        for column, count in self.unread.most_common():
            parts.append(f"{count:,} with a picture in column {column!r} that is not read")
        for reason, count in self.skipped.most_common():
            more = ", ..." if count > len(self.first_skipped[reason]) else ""
            parts.append(f"{count:,} skipped ({reason}: {', '.join(self.first_skipped[reason])}{more})")
        return "; ".join(parts)

    def skip(self, reason: str, where: str) -> None:
        """Count a record that gave no pair."""
        self.skipped[reason] += 1
        places = self.first_skipped.setdefault(reason, [])
        if len(places) < 3:
            places.append(where)

    def add(self, pair: Preference) -> None:
        """Count a pair that was read."""
        self.pairs += 1
        self.missing_images += sum(not there(picture) for picture in pair.images)
        self.without_images += not pair.images

    def count_incomplete(self) -> None:
        """Count a last line that was cut off."""
        self.torn_lines += 1


def read_pairs(
    path: Path, images: Path | None = None, form: str | None = None, *, seen: SeenPairs | None = None
) -> Iterator[Preference]:
    """The pairs of a file or a folder of shards; `images` is a folder or zip of pictures, where they do not stand
    beside the data.

    Ids and rows are those of the data as far as no two pairs, and no two prompts, share them (PairKeys).
    """
    known = _find_form(form) if form is not None else None
    files = data_files(path, known.fits if known else lambda columns: _detect(columns) is not None)
    places, keys = within(path, files, images), PairKeys()
    for place, file in enumerate(files):
        for number, record in enumerate(read_records(file, seen.count_incomplete if seen else None), start=1):
            where = f"{file}, record {number}"
            this = known or _form_of_record(record, where)
            try:
                check_columns(record)
                values = this.read(record, places.of_file(file))
            except NoPair as reason:
                if seen is None:
                    raise DataError(f"{where}: {reason}; a pair is one prompt and two answers") from None
                seen.skip(str(reason), f"{file.name}, record {number}")
                continue
            except KeyError as error:
                name = next(name for name, known_form in FORMS.items() if known_form is this)
                raise DataError(f"{where}: not {name} (columns {', '.join(record)}): no {error}") from None
            except DataError as error:
                raise DataError(f"{where}: {error}") from None
            pair = Preference(**keys.of(values, place))
            if seen is not None:
                seen.add(pair)
                seen.unread.update(unread_columns(record))
            yield pair


def write_pairs(
    pairs: Iterable[Preference],
    path: Path,
    form: str = "trl",
    *,
    embed_images: bool = False,
    copy_images: bool = True,
    seen: Unreadable | None = None,
) -> int:
    """Write pairs as `.parquet`, `.jsonl` or `.json` (one list), whole or not at all; returns how many.

    `seen` (a SeenPairs, or the Seen of the rows) counts the pictures that are no images.
    """
    known = _find_form(form)
    kind = suffix(path)
    if kind not in {".jsonl", ".json"} and not (kind == PARQUET and known.parquet):
        endings = ".parquet, .jsonl or .json" if known.parquet else ".jsonl or .json"
        raise DataError(f"{path}: {form} is written as {endings}")
    structs = kind == PARQUET
    exporter = ImageExporter(path, structs=structs, embed=embed_images, copy=copy_images, counts=seen)
    if structs and form == "trl":
        return write_trl(pairs, path, exporter, _GROUP[embed_images])
    records = (known.write(pair, exporter.give(pair.images), place) for place, pair in enumerate(pairs))
    return write_rlv(records, path, _GROUP[embed_images]) if structs else write_json(records, path)


def write_best(
    answers: Iterable["BestAnswer"],
    path: Path,
    *,
    embed_images: bool = False,
    copy_images: bool = True,
    seen: Unreadable | None = None,
) -> int:
    """Write answers to learn from by themselves in TRL's prompt and completion columns, `.parquet`, `.jsonl` or
    `.json`; how many."""
    kind = suffix(path)
    if kind not in {PARQUET, ".jsonl", ".json"}:
        raise DataError(f"{path}: answers are written as .parquet, .jsonl or .json")
    structs = kind == PARQUET
    exporter = ImageExporter(path, structs=structs, embed=embed_images, copy=copy_images, counts=seen)

    def record(answer: "BestAnswer") -> Record:
        rated: Any = dict(answer.ratings)
        given = exporter.give(answer.images)
        return {
            "images": given.images,
            "prompt": [{"role": "user", "content": answer.prompt}],
            "completion": [{"role": "assistant", "content": answer.completion}],
            "row": answer.row,
            "row_id": answer.row_id,
            "model": answer.model,
            "ratings": [{"aspect": aspect, "rating": rating} for aspect, rating in rated.items()] if structs else rated,
            **given.names,
        }

    records = map(record, answers)
    return write_answers(records, path, _GROUP[embed_images]) if structs else write_json(records, path)


def _find_form(name: str) -> Form:
    if name not in FORMS:
        raise DataError(f"no form {name!r}{did_you_mean(name, FORMS)}")
    return FORMS[name]


def _detect(columns: Collection[str]) -> Form | None:
    return next((form for form in FORMS.values() if form.fits(columns)), None)


def _form_of_record(record: Record, where: str) -> Form:
    found = _detect([name for name, value in record.items() if value is not None]) or _detect(record)
    if found is None:
        hint = " (rated answers: make pairs of them first)" if "completions" in record else ""
        columns = ", ".join(record) or "(none)"
        raise DataError(f"{where}: no form has the columns {columns}{hint}; known: {', '.join(FORMS)}")
    return found
