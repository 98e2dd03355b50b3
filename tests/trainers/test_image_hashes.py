"""Hashes of images and prompts, how copies are found by them, and the file that keeps them."""

import base64
import hashlib
import io
import json
import sqlite3
import subprocess
import sys
import zipfile
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from support.errors import StoreError
from support.images import ImageRef
from tasks.scenes.world import render, scenes
from tests.trainers.image_makers import encoded, photo
from trainers.data.duplicates import Deduplicator, PerceptualIndex
from trainers.data.image_hashes import (
    DISTANCE,
    HashCache,
    ImageHashes,
    coco_id,
    hash_file,
    hash_image,
    looks_alike,
    size_of,
)
from trainers.data.near_texts import near_texts, normal_prompt, prompt_key, similarity


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def test_one_picture_in_two_lossless_formats_has_one_content() -> None:
    image = photo(1, 320, 240)
    png, webp = opened(encoded(image, "PNG")), opened(encoded(image, "WEBP", lossless=True))
    assert hash_image(png) == hash_image(webp)


def test_one_changed_pixel_is_another_content() -> None:
    image = photo(1, 320, 240)
    changed = image.copy()
    changed.putpixel((5, 5), (1, 2, 3))
    assert hash_image(image).content != hash_image(changed).content


def test_the_same_pixels_in_another_shape_are_another_content() -> None:
    flat = Image.new("RGB", (20, 30), "red")
    assert hash_image(flat).content != hash_image(flat.resize((30, 20))).content


def test_a_picture_that_exif_turns_is_the_picture_as_it_is_seen() -> None:
    image = photo(2, 320, 240)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it
    stored = opened(encoded(image.transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif))
    assert hash_image(stored).content == hash_image(image).content


def test_colours_under_full_transparency_are_not_content() -> None:
    pixels = np.array(photo(3, 320, 240).convert("RGBA"))
    pixels[:50, :, 3] = 0
    other = pixels.copy()
    other[:50, :, :3] = 7
    assert hash_image(Image.fromarray(pixels)).content == hash_image(Image.fromarray(other)).content


def test_pictures_of_16_bits_are_told_apart() -> None:
    ramp = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16
    one, other = (hash_image(Image.fromarray(values)) for values in (ramp, ramp[::-1].copy()))
    assert one.content != other.content
    assert looks_alike(one, other) is None


LARGE = encoded(photo(4, 720, 600), "JPEG", quality=85)


def test_a_large_jpeg_is_decoded_at_less_and_looks_like_its_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, int]] = []
    load = JpegImageFile.load

    def loading(self: JpegImageFile) -> Any:
        sizes.append(self.size)
        return load(self)

    monkeypatch.setattr(JpegImageFile, "load", loading)
    small = hash_file(LARGE)
    assert (small.size, set(sizes)) == ((720, 600), {(360, 300)})
    monkeypatch.undo()
    whole = opened(LARGE)
    copies = [hash_image(whole), hash_image(whole.resize((240, 200))), hash_file(encoded(whole, "PNG"))]
    assert [looks_alike(small, copy) is not None for copy in copies] == [True] * 3
    assert copies[2] == hash_file(encoded(whole, "WEBP", lossless=True))
    assert looks_alike(small, hash_file(encoded(photo(5, 720, 600), "JPEG"))) is None


def test_a_large_jpeg_that_lies_on_its_side_has_the_size_as_it_is_seen(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(photo(4, 720, 600), "JPEG", exif=exif)
    (tmp_path / "a.jpg").write_bytes(data)
    assert hash_file(data).size == (600, 720)
    assert size_of(ImageRef("a", tmp_path / "a.jpg")) == (600, 720)


@pytest.mark.parametrize("kept", (0.3, 0.7, 0.95))
@pytest.mark.parametrize("progressive", (False, True))
def test_a_large_jpeg_that_is_cut_short_is_found(kept: float, progressive: bool) -> None:
    data = encoded(photo(4, 720, 600), "JPEG", progressive=progressive)
    facts = HashCache().facts_of(ImageRef("a", data=data[: int(kept * len(data))]))
    assert (facts.hashes, "truncated" in facts.problem) == (None, True)


def test_of_a_size_alone_the_head_of_the_file_is_read() -> None:
    assert size_of(ImageRef("a", data=LARGE[: len(LARGE) // 3])) == (720, 600)


@pytest.mark.parametrize("seed", range(8))
def test_copies_of_a_photograph_look_alike(seed: int) -> None:
    image = photo(seed, 320, 240)
    original = hash_image(image)
    copies = {
        "jpeg 85": opened(encoded(image, "JPEG", quality=85)),
        "jpeg 25": opened(encoded(image, "JPEG", quality=25)),
        "half": image.resize((160, 120)),
        "half, jpeg": opened(encoded(image.resize((160, 120)), "JPEG", quality=70)),
        "double": image.resize((640, 480)),
        "square": image.resize((336, 336)),
        "1% cut off": image.crop((3, 2, 317, 238)),
    }
    assert {
        name: looks_alike(original, hash_image(copy)) is not None for name, copy in copies.items()
    } == dict.fromkeys(copies, True)
    assert looks_alike(original, hash_image(image.transpose(Image.Transpose.ROTATE_180))) is None


def test_photographs_of_something_else_do_not_look_alike() -> None:
    marks = [hash_image(photo(seed, 320, 240)) for seed in range(40)]
    assert not [1 for i, one in enumerate(marks) for other in marks[:i] if looks_alike(one, other) is not None]


def test_no_two_scenes_look_alike_though_their_perceptual_hashes_come_near() -> None:
    shown = [hash_image(render(scene)) for scene in islice(scenes("train/0"), 300)]
    held = [hash_image(render(scene)) for scene in islice(scenes("test/pope"), 300)]
    pairs = [(one, other) for one in shown for other in held]
    assert [1 for one, other in pairs if (one.perceptual ^ other.perceptual).bit_count() <= DISTANCE + 4], (
        "perceptual hashes alone would give false alarms"
    )
    assert not [1 for one, other in pairs if looks_alike(one, other) is not None]


def test_scenes_are_found_again_after_re_encoding() -> None:
    images = [render(scene) for scene in islice(scenes("train/0"), 100)]
    found = [looks_alike(hash_image(image), hash_image(opened(encoded(image, "JPEG", quality=85)))) for image in images]
    assert sum(distance is not None for distance in found) >= 95


def test_pictures_of_one_colour_never_look_alike() -> None:
    white = hash_image(Image.new("RGB", (100, 100), "white"))
    almost = hash_image(Image.new("RGB", (200, 200), (254, 255, 255)))
    assert white.is_plain
    assert (white.perceptual ^ almost.perceptual).bit_count() <= DISTANCE
    assert looks_alike(white, almost) is None
    assert looks_alike(white, white) is None


COCO_NAMES = {
    "COCO_train2014_000000123456.jpg": 123456, "COCO_val2014_000000000042.jpg": 42,
    "coco/train2017/000000033471.jpg": 33471, "/data/COCO_test2015_000000000001.png": 1,
    "000000123456": 123456, "000000123456_3": 123456, "llava-000000123456": 123456,
}  # fmt: skip
OTHER_NAMES = """VG_100K/2377.jpg VG_100K_2/2400123.jpg GCC_train_002582585.jpg 00453/004539375.jpg 0000001234567.jpg
123456789012.jpg a000000123456.jpg 000000000000.jpg"""


def test_coco_ids_are_read_from_names_of_cocos_form_only() -> None:
    assert {name: coco_id(name) for name in COCO_NAMES} == COCO_NAMES
    assert {coco_id(name) for name in ("", *OTHER_NAMES.split())} == {None}


def test_prompts_of_the_same_words_are_one_prompt() -> None:
    forms = ["<image>\nWhat is THIS?", "what is this", "What  is\u00a0this ?!<image>", "ＷＨＡＴ is “this”"]
    assert {normal_prompt(form) for form in forms} == {"what is this"}
    assert len({prompt_key(form) for form in forms}) == 1
    assert prompt_key("what was this") != prompt_key("what is this")


def test_signs_that_carry_meaning_stay_in_a_prompt() -> None:
    assert normal_prompt("Is 3 + 4 < 8?") == "is 3 + 4 < 8"
    assert normal_prompt("图中有几只猫？") == "图中有几只猫"


hashes = st.integers(min_value=0, max_value=(1 << 128) - 1)
turned = st.lists(st.integers(min_value=0, max_value=127), max_size=18)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(hashes, min_size=1, max_size=40),
    st.lists(st.tuples(st.integers(0, 39), turned), max_size=30),
    st.integers(0, 24),
)
def test_the_index_finds_what_comparing_all_finds(
    first: list[int], changed: list[tuple[int, list[int]]], distance: int
) -> None:
    near = [first[place % len(first)] for place, _ in changed]
    for place, (_, bits) in enumerate(changed):
        for bit in bits:
            near[place] ^= 1 << bit
    entries = first + near[::2]
    index: PerceptualIndex[int] = PerceptualIndex()
    index.UNSORTED = 8  # type: ignore[misc]  # so that few hashes are enough to sort some
    queries = near + first[:3]
    for key, value in enumerate(entries):
        index.add(key, value)
        if key % 5 == 0:
            index.near(value, 1)
    for query in queries:
        apart = [(query ^ value).bit_count() for value in entries]
        wanted = sorted((key for key in range(len(entries)) if apart[key] <= distance), key=lambda key: apart[key])
        assert index.near(query, distance) == wanted
    everything = {
        (q, key)
        for q, query in enumerate(queries)
        for key, value in enumerate(entries)
        if (query ^ value).bit_count() <= distance
    }
    assert set(index.near_all(queries, distance)) == everything


def test_thousands_of_hashes_are_searched_exactly() -> None:
    rng = np.random.default_rng(0)
    entries = [int.from_bytes(rng.bytes(16), "big") for _ in range(5000)]
    index: PerceptualIndex[int] = PerceptualIndex()
    for key, value in enumerate(entries):
        index.add(key, value)
    queries = [value ^ sum(1 << int(bit) for bit in rng.choice(128, 15, replace=False)) for value in entries[::50]]
    assert [index.near(query, 15) for query in queries] == [[key] for key in range(0, 5000, 50)]
    assert not [1 for query in queries if index.near(query, 14)]


def test_an_empty_index_has_nothing_near() -> None:
    index: PerceptualIndex[str] = PerceptualIndex()
    assert index.near(0, 128) == []
    assert list(index.near_all([], 3)) == []


WORDS = ("is", "there", "a", "dog", "cat", "car", "in", "the", "image", "how", "many", "two", "图中有猫")
words = st.lists(st.sampled_from(WORDS), max_size=10).map(" ".join)


@settings(max_examples=80, deadline=None)
@given(st.lists(words, max_size=25), st.lists(words, max_size=25), st.sampled_from([0.2, 0.5, 0.8, 0.9, 1.0]))
@example(["abcd"], ["abcd", "abcde", ""], 0.5)
def test_near_texts_are_those_that_comparing_all_finds(
    queries: list[str], entries: list[str], threshold: float
) -> None:
    wanted = {
        (q, e): pytest.approx(value)
        for q, query in enumerate(queries)
        for e, entry in enumerate(entries)
        if (value := similarity(query, entry)) >= threshold - 1e-12
    }
    assert {(q, e): value for q, e, value in near_texts(queries, entries, threshold)} == wanted


def test_similarity_is_the_share_of_common_shingles() -> None:
    assert similarity("abcdefg", "abcdefg") == 1
    assert similarity("abcdefg", "bcdefgh") == pytest.approx(2 / 4)  # bcdef cdefg of abcde bcdef cdefg defgh
    assert similarity("abcdefg", "tuvwxyz") == 0
    assert similarity("", "") == 0


def test_a_threshold_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="threshold 0"):
        near_texts(["a"], ["b"], 0)


def photos(folder: Path, count: int) -> list[ImageRef]:
    folder.mkdir(exist_ok=True)
    for seed in range(count):
        (folder / f"{seed}.png").write_bytes(encoded(photo(seed, 64, 48), "PNG"))
    return [ImageRef(f"{seed}.png", folder / f"{seed}.png") for seed in range(count)]


def test_a_file_is_read_once_and_never_again_by_the_next_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = photos(tmp_path, 5)
    broken = ImageRef("b.png", tmp_path / "b.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr("in/0.png", encoded(photo(7, 64, 48), "PNG"))
    shown += [broken, ImageRef("in/0.png", tmp_path / "images.zip", "in/0.png")]
    with HashCache(tmp_path / "cache" / "hashes.sqlite") as cache:
        first = list(cache.facts_of_all(shown + shown))
        assert cache.made == 6
    assert first[:5] == first[7:12]
    assert [one.hashes for one in first[:5]] == [hash_image(photo(seed, 64, 48)) for seed in range(5)]
    assert first[0].digest == hashlib.sha256((tmp_path / "0.png").read_bytes()).hexdigest()
    assert first[5].hashes is None
    assert first[5].problem.startswith("not an image that is known (JPEG, PNG")
    monkeypatch.setattr(ImageRef, "read", lambda image: pytest.fail(f"{image.name} was read again"))
    with HashCache(tmp_path / "cache" / "hashes.sqlite") as cache:
        assert list(cache.facts_of_all(shown + shown)) == first


def test_a_changed_file_is_hashed_again(tmp_path: Path) -> None:
    (image,) = photos(tmp_path, 1)
    with HashCache(tmp_path / "hashes.sqlite") as cache:
        before = cache.of(image)
        (tmp_path / "0.png").write_bytes(encoded(photo(2, 320, 240), "PNG"))
        after = cache.of(image)
    assert after.content != before.content
    with HashCache(tmp_path / "hashes.sqlite") as cache:
        assert cache.of(image) == after


def test_hashes_of_an_earlier_version_are_made_again(tmp_path: Path) -> None:
    (image,) = photos(tmp_path, 1)
    digest = hashlib.sha256((tmp_path / "0.png").read_bytes()).hexdigest()
    with sqlite3.connect(tmp_path / "hashes.sqlite") as file:
        file.execute("CREATE TABLE fingerprints (file TEXT PRIMARY KEY, value TEXT NOT NULL)")
        value = ["content", f"{5:032x}", base64.b64encode(bytes(192)).decode(), 320, 240]
        for version in (1, HashCache.VERSION):
            file.execute("INSERT INTO fingerprints VALUES (?, ?)", (f"{version}/{version}", json.dumps(value)))
        file.execute("INSERT INTO fingerprints VALUES (?, ?)", (f"1/{digest}", json.dumps(value)))
    with HashCache(tmp_path / "hashes.sqlite") as cache:
        assert (cache.stored("1"), cache.stored(str(HashCache.VERSION)) is not None) == (None, True)
        assert cache.of(image).content != "content"
        assert cache.made == 1


def test_the_coco_id_is_of_the_name_and_not_of_the_bytes(tmp_path: Path) -> None:
    data = encoded(photo(1, 320, 240), "PNG")
    cache = HashCache()
    assert cache.of(ImageRef("COCO_val2014_000000000007.jpg", data=data)).coco == 7
    assert cache.of(ImageRef("other.jpg", data=data)).coco is None
    file = tmp_path / "000000000009.jpg"
    file.write_bytes(data)
    assert cache.of(ImageRef("images/1", file)).coco == 9


def test_images_that_cannot_be_read_stand_in_their_place_with_the_reason() -> None:
    good = ImageRef("good", data=encoded(photo(1, 320, 240), "PNG"))
    gone, found, broken = HashCache().facts_of_all([ImageRef("gone"), good, ImageRef("b", data=b"no image")], workers=2)
    assert (gone.digest, gone.problem, found.problem) == ("", "image 'gone' is not there", "")
    assert broken.digest
    with pytest.raises(OSError, match="not an image that is known"):
        HashCache().of(ImageRef("b", data=b"no image"))


HASH_ALL = """
import sys
from pathlib import Path
from support.images import ImageRef
from trainers.data.image_hashes import HashCache

folder = Path(sys.argv[1])
with HashCache(folder / "hashes.sqlite") as cache:
    images = [ImageRef(file.name, file) for file in folder.glob("*.png")]
    assert all(facts.hashes for facts in cache.facts_of_all(images))
"""


def test_two_processes_share_a_file_of_hashes(tmp_path: Path) -> None:
    photos(tmp_path, 12)
    others = [subprocess.Popen([sys.executable, "-c", HASH_ALL, str(tmp_path)]) for _ in range(2)]
    assert [process.wait() for process in others] == [0, 0]
    with sqlite3.connect(tmp_path / "hashes.sqlite") as file:
        assert file.execute("SELECT count(*) FROM fingerprints").fetchone() == (12,)
        assert file.execute("SELECT count(*) FROM files").fetchone() == (12,)


def test_a_file_that_is_no_cache_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a database, " * 100)
    with pytest.raises(StoreError, match=r"notes\.txt: can't be used as a file of fingerprints"):
        HashCache(tmp_path / "notes.txt")


def test_duplicates_are_named_by_their_strongest_kind() -> None:
    image = photo(1, 320, 240)
    mark, other = hash_image(image), hash_image(photo(2, 320, 240))
    copy = hash_image(opened(encoded(image, "JPEG", quality=80)))
    known: Deduplicator[str] = Deduplicator()
    known.add("first", "What is this?", mark)

    def kind(prompt: str, print: ImageHashes | None) -> str | None:
        found = known.find(prompt, print)
        assert found is None or found.of == "first"
        return found.kind if found else None

    assert kind("what is this", mark) == "same prompt and image"
    assert kind("what is this", copy) == "same prompt, image looks alike"
    assert kind("How many?", mark) == "same image"
    assert kind("How many?", copy) == "image looks alike"
    assert kind("What is this?", other) is None
    assert kind("What is this?", None) is None


def test_a_prompt_without_a_picture_is_a_duplicate_of_the_same_without_one() -> None:
    known: Deduplicator[int] = Deduplicator()
    known.add(0, "Tell a joke.", None)
    found = known.find("tell a joke", None)
    assert found is not None
    assert (found.kind, found.of) == ("same prompt and image", 0)


def test_plain_pictures_are_duplicates_by_content_only() -> None:
    known: Deduplicator[int] = Deduplicator()
    white = hash_image(Image.new("RGB", (100, 100), "white"))
    known.add(0, "What?", white)
    assert known.find("What?", hash_image(Image.new("RGB", (50, 50), "white"))) is None
    assert known.find("What?", white) is not None
