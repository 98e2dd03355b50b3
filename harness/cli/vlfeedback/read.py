"""`harness vlfeedback stats`, `check`, `convert` and `sources`: data that are there already."""

import json
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from harness.cli.options import Json, say
from harness.cli.shown import show
from harness.cli.vlfeedback.options import CopyImages, EmbedImages, Images, RatedData, read_data, refuse_overwriting
from support.errors import LOSSY, OK, UsageError

if TYPE_CHECKING:
    from trainers.data.pair_formats import SeenPairs
    from trainers.data.vlfeedback_format import Seen

log = logging.getLogger(__name__)
Row = TypeVar("Row")


def stats_command(
    data: RatedData,
    images: Images = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for report.md and its plots; default: print the numbers only.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Count rated answers.

    Ratings and models beside the published tables, wins, ties, length bias, and rows that can't be used.
    """
    from trainers.data.statistics import gather
    from trainers.data.statistics_report import report
    from trainers.data.statistics_tables import tables_of
    from trainers.data.vlfeedback_format import Seen

    seen = Seen()
    found = gather(read_data(data, images, seen))
    _require_rows(seen.rows, data, seen.summary())
    if out is not None:
        log.info(f"report: {report(found, out, title=data.name)}")
    log.info(seen.summary())
    print(json.dumps(found.to_json() | {"seen": seen.to_json()}) if as_json else tables_of(found))
    return OK


def check_command(data: RatedData, images: Images = None, as_json: Json = False) -> int:
    """Read all rows and open every image.

    Prints what is broken, missing, or shown under a repeated id; exit 4 if an image is missing.
    """
    from dataclasses import asdict

    from support.markdown import cell
    from trainers.data.image_check import check_images
    from trainers.data.vlfeedback_format import Seen

    seen = Seen()
    found = check_images(read_data(data, images, seen))
    _require_rows(seen.rows, data, seen.summary())
    lost = len(found.broken) + len(found.missing)
    show(
        [cell(seen.summary()), found.to_markdown()],
        json=json.dumps({"seen": seen.to_json(), "images": asdict(found)}) if as_json else None,
    )
    return OK if not lost else say(f"{lost} pictures can't be shown", LOSSY)


def _require_rows(count: int, data: Path, seen: str) -> None:
    """UsageError where nothing of the data could be read."""
    if not count:
        raise UsageError(f"{data}: holds nothing that can be read: {seen}")


def _refuse_none(rows: Iterable[Row], data: Path, seen: "Seen | SeenPairs") -> Iterator[Row]:
    """The rows; at their end UsageError where there were none, so that no empty file is written."""
    some = False
    for row in rows:
        some = True
        yield row
    _require_rows(some, data, seen.summary())


def convert_command(
    source: Annotated[
        Path, typer.Argument(help="Rated answers in VLFeedback's schema, or pairs in a known format: file or folder.")
    ],
    out: Annotated[Path, typer.Argument(help="File to write; its ending says in which form.")],
    to: Annotated[
        str, typer.Option(help="vlfeedback, or a format of pairs: trl, povid, sharegpt, rlhf-v, rlaif-v.")
    ] = "trl",
    form: Annotated[str | None, typer.Option("--from", help="The source's format, if its columns do not tell.")] = None,
    images: Images = None,
    embed_images: EmbedImages = False,
    copy_images: CopyImages = True,
) -> int:
    """Rewrite rated answers as jsonl or parquet, or pairs in another format."""
    from trainers.data.pair_formats import SeenPairs, read_pairs, write_pairs
    from trainers.data.vlfeedback_format import Seen, write_rows

    refuse_overwriting(out, source)
    if to == "vlfeedback":
        seen = Seen()
        rows = _refuse_none(read_data(source, images, seen), source, seen)
        count = write_rows(rows, out, embed_images=embed_images, seen=seen)
        log.info(f"{out}: {count} rows; read {seen.summary()}")
        return OK
    pairs = SeenPairs()
    given = _refuse_none(read_pairs(source, images, form, seen=pairs), source, pairs)
    count = write_pairs(given, out, to, embed_images=embed_images, copy_images=copy_images, seen=pairs)
    log.info(f"{out}: {count} pairs; read {pairs.summary()}")
    return OK


def sources_command(as_json: Json = False) -> int:
    """List the sources of VLFeedback's instructions."""
    from dataclasses import asdict

    from support.tables import Table
    from trainers.vlfeedback.sources import declared

    known = declared().values()
    if as_json:
        print(json.dumps({"sources": [asdict(source) for source in known]}))
        return OK
    rows = [[s.name, f"{s.published:,}", s.capability, s.hub or s.site, s.licence, s.needs] for s in known]
    headers = ["source", "in VLFeedback", "what it asks", "hub id or site", "licence", "pictures from elsewhere"]
    show([Table(headers, rows), "A path, hub:OWNER/NAME, a folder of images, or `scenes` is a source too."])
    return OK
