"""An image file is read once on its way from a source to the first step of training, whoever asks about it."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.images import ImageRef
from tests.trainers.source_files import data as recipe_data
from tests.trainers.source_files import photo, table, write
from trainers.config.data import InstructionSource, PreferenceFile
from trainers.data import image_hashes
from trainers.data.contamination import Benchmark, Document, find_leaks
from trainers.data.image_hashes import IMAGE_FACTS, HashCache, digest_of, shared_cache, size_of
from trainers.data.pair_formats import read_pairs, write_pairs
from trainers.data.read_preferences import digest, read_preferences
from trainers.data.rows import Preference
from trainers.training.prompt_lengths import check_lengths
from trainers.vlfeedback.sampling import instructions_of


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Name of a file -> how often an image was read from it."""
    counted: Counter[str] = Counter()
    read = ImageRef.read

    def counting(self: ImageRef) -> bytes:
        if self.file is not None and self.reader is None:
            counted[self.file.name] += 1
        return read(self)

    monkeypatch.setattr(ImageRef, "read", counting)
    return counted


@pytest.fixture
def new_process(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Forgets what this process knows of images."""

    def forget() -> None:
        image_hashes._KNOWN.clear()

    forget()
    return forget


def look_for_leaks(pairs: list[Preference], cache: HashCache) -> None:
    find_leaks(pairs, [Benchmark(task="t", documents=[Document(id="1", question="Who?")])], cache=cache)


def start_training(pairs: list[Preference], checkpoint: Any) -> None:
    """What a rank asks about images before its first step."""
    from transformers import AutoProcessor

    from trainers.packed.trainer import digests

    check_lengths(pairs, AutoProcessor.from_pretrained(checkpoint("llava")), 4096)
    digests(pairs, "settings")


def test_images_of_sources_are_read_once_and_their_copies_not_before_training(
    reads: Counter[str], new_process: Callable[[], None], checkpoint: Any, tmp_path: Path
) -> None:
    source, out = table(tmp_path / "t.jsonl", 6), tmp_path / "data"
    drawn = instructions_of(recipe_data(InstructionSource(name="t", path=str(source)), count=6), 0, out / "images")
    assert reads == {f"t-{number}.jpg": 1 for number in range(6)}
    built = [
        Preference(
            id=str(row), prompt=one.prompt, images=(ImageRef(one.image, out / "images" / one.image),),
            chosen="A cat.", rejected="A dog.", row=row,
        )
        for row, one in enumerate(drawn)
    ]  # fmt: skip
    write_pairs(built, out / "pairs.jsonl")
    with HashCache(out / IMAGE_FACTS) as cache:
        mark = digest(built, cache)
        look_for_leaks(built, cache)
    for _ in range(2):
        new_process()
        pairs = list(read_pairs(out / "pairs.jsonl"))
        with shared_cache(out / IMAGE_FACTS) as cache:
            assert digest(pairs, cache) == mark
        start_training(pairs, checkpoint)
    assert set(reads.values()) == {1}
    assert len(reads) == 6


def test_images_of_pairs_that_are_there_are_read_once_by_all_ranks(
    reads: Counter[str], new_process: Callable[[], None], checkpoint: Any, tmp_path: Path
) -> None:
    for number in range(4):
        write(tmp_path / "images" / f"{number}.jpg", photo(number))
    pairs = [
        Preference(
            id=str(row), prompt=f"Why {row}?", images=(ImageRef(f"{row % 4}.jpg", tmp_path / f"images/{row % 4}.jpg"),),
            chosen="A cat.", rejected="A dog.", row=row,
        )
        for row in range(8)
    ]  # fmt: skip
    write_pairs(pairs, tmp_path / "pairs.jsonl")
    dataset = PreferenceFile(read=str(tmp_path / "pairs.jsonl"), test_share=0)
    marks = set()
    for rank in range(3):
        new_process()
        with shared_cache(tmp_path / "run" / IMAGE_FACTS) as cache:
            found = read_preferences(dataset, cache)
            if rank == 0:
                look_for_leaks(found.train, cache)
        start_training(found.train, checkpoint)
        marks.add(found.digest)
    assert (len(marks), reads) == (1, {f"{number}.jpg": 1 for number in range(4)})


RANK = """
import json, sys
from pathlib import Path
from support.images import ImageRef
from trainers.data.image_hashes import shared_cache

folder, reads, read = Path(sys.argv[1]), [], ImageRef.read
ImageRef.read = lambda self: (reads.append(self.name), read(self))[1]
with shared_cache(folder / "facts.sqlite") as cache:
    list(cache.facts_of_all(ImageRef(path.name, path) for path in sorted(folder.glob("*.jpg"))))
print(json.dumps(reads))
"""


def test_ranks_that_start_at_the_same_time_read_each_image_once_between_them(tmp_path: Path) -> None:
    for number in range(5):
        write(tmp_path / f"{number}.jpg", photo(number))
    ranks = [
        subprocess.Popen([sys.executable, "-c", RANK, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    read = [name for rank in ranks for name in json.loads(rank.communicate(timeout=120)[0])]
    assert sorted(read) == [f"{number}.jpg" for number in range(5)]


def test_what_is_known_of_a_file_is_forgotten_when_it_changes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jpg", photo(1))
    image = ImageRef("a", path)
    HashCache().of(image)
    assert (digest_of(image), size_of(image)) == (digest_of(ImageRef("b", data=photo(1))), (64, 64))
    path.write_bytes(photo(2, side=32))
    assert (digest_of(image), size_of(image)) == (digest_of(ImageRef("b", data=photo(2, side=32))), (32, 32))
