"""What getting a model takes of the disks: its download, and the copy of weights that are there only as .bin.

use = use_of(spec, info)         # info: the hub's description, with the sizes of files
use.words()                      # "31.7 GB are downloaded, ..."
needs_of_room("silkie", use)     # what is too much for the disks
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.models.base_names import ADAPTER_CONFIG
from harness.models.fetch import ADAPTER_STEMS, WEIGHT_STEMS, converted_copy, files_to_download, in_cache
from harness.models.spec import ModelSpec
from support.errors import Need
from support.files import cache_folder
from support.full_disk import room_at


@dataclass(frozen=True, kw_only=True)
class DiskUse:
    """Bytes."""

    download: int
    """Still to be written into the hub's cache."""
    convert: int
    """Still to be written as safetensors, of weights that are only .bin."""
    kept: int
    """What both caches hold of the model then; a folder of the user's is in neither."""

    def __add__(self, other: "DiskUse") -> "DiskUse":
        """What both take."""
        download, convert = self.download + other.download, self.convert + other.convert
        return DiskUse(download=download, convert=convert, kept=self.kept + other.kept)

    def words(self) -> str:
        """For a person, before anything is done."""
        if not self.download and not self.convert:
            return "nothing is downloaded or converted: its files are here"
        told = [
            f"{describe_size(self.download)} are downloaded" if self.download else "nothing is downloaded",
            *([f"{describe_size(self.convert)} written as its .bin files are converted"] if self.convert else []),
        ]
        return f"{', '.join(told)}; the caches then hold {describe_size(self.kept)} of it"


def use_of_adapter(folder: Path) -> DiskUse:
    """What an adapter in a folder takes: the copy of weights that are there only as .bin."""
    copy, bins = converted_copy(folder, ADAPTER_STEMS) or (None, 0)
    return DiskUse(download=0, convert=0 if copy is None or copy.is_dir() else bins, kept=bins)


def use_of(spec: ModelSpec, info: Any = None) -> DiskUse | None:
    """What a model takes that is in a folder, in the hub's cache, or as the hub describes it by `info`; None where the
    sizes of its files are not known."""
    place = in_cache(spec)
    if Path(spec.pretrained).is_dir() or info is None:
        return None if place is None else _of_folder(place, is_cache=not Path(spec.pretrained).is_dir())
    sizes = files_to_download(spec, info)
    if sizes is None:
        return None
    left = {name: size for name, size in sizes.items() if place is None or not (place / name).is_file()}
    bins = sum(size for name, size in sizes.items() if name.endswith(".bin"))
    stems = ADAPTER_STEMS if ADAPTER_CONFIG in sizes and "config.json" not in sizes else WEIGHT_STEMS
    copy = None if left or place is None else converted_copy(place, stems)
    copied = copy is not None and copy[0].is_dir()
    return DiskUse(download=sum(left.values()), convert=0 if copied else bins, kept=sum(sizes.values()) + bins)


def needs_of_room(what: str, use: DiskUse, free: Mapping[Path, float] | None = None) -> Iterator[Need]:
    """What is too much for the disks of the two caches, which may be one; `what` takes it; `free`: their free bytes,
    else measured."""
    if not (use.download or use.convert):
        return
    from huggingface_hub.constants import HF_HUB_CACHE

    caches = {Path(HF_HUB_CACHE): use.download, cache_folder(): use.convert}
    wanted = {place: size for place, size in caches.items() if size}
    on_one_disk = len({_find_disk(place) for place in wanted}) < 2
    for place, size in {next(iter(wanted)): sum(wanted.values())}.items() if on_one_disk and wanted else wanted.items():
        room = room_at(place) if free is None else free[place]
        if room < size:
            more = f" ({describe_size(use.convert)} of it for the conversion of its .bin files)" if use.convert else ""
            why = f"{what} takes {describe_size(size)}{more}, and {describe_size(room)} are free there"
            yield Need(what="room on the disk of HF_HOME", why=why, command="free some, or set HF_HOME to another disk")


def _of_folder(folder: Path, *, is_cache: bool) -> DiskUse:
    is_adapter = (folder / ADAPTER_CONFIG).is_file() and not (folder / "config.json").is_file()
    copy, bins = converted_copy(folder, ADAPTER_STEMS if is_adapter else WEIGHT_STEMS) or (None, 0)
    held = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if is_cache else 0
    return DiskUse(download=0, convert=0 if copy is None or copy.is_dir() else bins, kept=held + bins)


def _find_disk(place: Path) -> int:
    """The device that a path lies on, or will lie on."""
    there = next(folder for folder in (place, *place.absolute().parents) if folder.exists())
    return there.stat().st_dev


def describe_size(size: float) -> str:
    """Bytes as gigabytes, small ones as megabytes."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
