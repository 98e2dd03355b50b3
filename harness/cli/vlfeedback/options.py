"""What the commands about preference data share: options, and reading rated answers."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from support.errors import UsageError

if TYPE_CHECKING:
    from trainers.data.rows import Row
    from trainers.data.vlfeedback_format import Seen

PUBLIC: Final = "public"
"""Stands for the published dataset, fetched from the hub."""

RatedData = Annotated[
    Path,
    typer.Argument(
        help="Rated answers in VLFeedback's schema (.jsonl, .json, .parquet), a folder of them, or `public`: the hub's."
    ),
]
Images = Annotated[Path | None, typer.Option(help="Folder or zip of images that are not beside the data.")]
UseRay = Annotated[
    str | None,
    typer.Option("--ray", help="Run as Ray Data pipelines: `local`, or the address of a cluster (auto, HOST:PORT)."),
]
Workers = Annotated[int, typer.Option(min=1, help="With --ray: actors of each stage.")]
CopyImages = Annotated[
    bool, typer.Option(help="Copy images out of zips and tables beside the file, so that `datasets` can open them.")
]
EmbedImages = Annotated[
    bool, typer.Option("--embed-images", help="Put the images into the file, or beside it for JSON.")
]


def read_data(data: Path, images: Path | None, seen: "Seen | None" = None) -> "Iterator[Row]":
    """The rated answers of a file, a folder, or the hub."""
    from trainers.data.vlfeedback_format import fetch_public, read_rows

    return read_rows(fetch_public() if str(data) == PUBLIC else data, images, seen=seen)


def refuse_overwriting(out: Path, data: Path) -> None:
    """UsageError if a command would write over what it reads."""
    from trainers.data.vlfeedback_format import holds_rows

    within = data.is_dir() and out.resolve().parent in (data.resolve(), (data / "data").resolve())
    if out.is_file() and data.exists() and (out.samefile(data) or (within and holds_rows(out))):
        raise UsageError(f"{out}: is among the data that is read; name another file")


@contextmanager
def use_ray(address: str | None) -> "Iterator[bool]":
    """Ray while a command runs, if it was asked for."""
    if address is None:
        yield False
        return
    from trainers.vlfeedback.ray_stages import cluster

    with cluster(None if address == "local" else address):
        yield True
