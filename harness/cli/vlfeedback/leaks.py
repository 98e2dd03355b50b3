"""`harness vlfeedback leaks`: rows of the training data that benchmarks contain."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.options import DATA, DataOptions, Json, expand
from harness.cli.setting_options import with_settings
from harness.cli.shown import show
from harness.cli.vlfeedback.options import PUBLIC, Images, UseRay, Workers, read_data, refuse_overwriting, use_ray
from support.errors import OK

if TYPE_CHECKING:
    from trainers.data.rows import Preference, Row

log = logging.getLogger(__name__)


HashFile = Annotated[Path, typer.Option(help="File that keeps hashes of images for later runs.")]


@with_settings(data=DATA)
def leaks_command(
    source: Annotated[
        Path, typer.Argument(help="Rated answers in VLFeedback's schema, `public`, or pairs in a known format.")
    ],
    tasks: Annotated[list[str], typer.Option(help="Tasks or suites, separated by commas; repeatable.")],
    images: Images = None,
    distance: Annotated[
        int | None, typer.Option(help="Number of bits in which hashes of similar images may differ.")
    ] = None,
    drop: Annotated[
        Path | None, typer.Option(help="Write the data without the rows that show an image of a task to this file.")
    ] = None,
    fingerprints: HashFile = Path("runs/fingerprints.sqlite"),
    out: Annotated[Path | None, typer.Option(help="Write all leaks as JSON to this file.")] = None,
    ray: UseRay = None,
    workers: Workers = 2,
    as_json: Json = False,
    *,
    data: DataOptions,
) -> int:
    """Find rows of the training data that show or ask what a benchmark shows or asks."""
    from harness.datasets.contamination import leaks_of
    from support.files import atomic_write_text
    from support.stages import Stages
    from trainers.data.contamination import drop as without
    from trainers.data.pair_formats import read_pairs, write_pairs
    from trainers.data.vlfeedback_format import holds_rows, write_rows

    for written in (drop, out):
        if written is not None:
            refuse_overwriting(written, source)
    chosen = expand(tasks)
    data.check(chosen)
    rated = holds_rows(source) or str(source) == PUBLIC

    def read() -> "Iterator[Row] | Iterator[Preference]":
        return read_data(source, images) if rated else read_pairs(source, images)

    if ray is not None:
        _hash_by_ray(read(), fingerprints, ray, workers)
    with Stages():
        found = leaks_of(
            read(), chosen, data=data.paths, partial_data=data.partial, cache=fingerprints, distance=distance
        )
    if out is not None:
        atomic_write_text(out, json.dumps(found.to_json()))
    if drop is not None:
        if rated:
            kept = write_rows(without(read_data(source, images), found), drop)
        else:
            kept = write_pairs(without(read_pairs(source, images), found), drop)
        log.info(f"{drop}: {kept} kept, {len(found.dropped)} rows left out")
    show(found.to_markdown(), json=json.dumps(found.to_json()) if as_json else None)
    return OK


def _hash_by_ray(rows: "Iterator[Row] | Iterator[Preference]", cache: Path, address: str, workers: int) -> None:
    from trainers.vlfeedback.ray_stages import hash_by_ray

    with use_ray(address):
        pictures = (picture for row in rows for picture in row.images)
        count = sum(1 for _ in hash_by_ray(pictures, cache, workers=workers))
    log.info(f"{count} pictures have fingerprints in {cache}")
