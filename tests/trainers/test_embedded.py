"""Pictures in tables are read when they are looked at, each its own, in any order and by several processes."""

import base64
import io
import json
import os
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from support.errors import DataError
from tests.trainers.image_makers import png
from trainers.config.data import PreferenceFile
from trainers.data import embedded
from trainers.data.embedded import EmbeddedPicture, read_records
from trainers.data.image_hashes import HashCache, digest_of, shared_cache, size_of
from trainers.data.pair_formats import read_pairs
from trainers.data.read_preferences import read_preferences
from trainers.data.rows import Preference

ANSWERS = {"chosen": "cat", "rejected": "dog"}


def write(path: Path, rows: Sequence[dict[str, Any]], group: int = 10) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(list(rows)), path, row_group_size=group)
    return path


def pairs(count: int) -> list[dict[str, Any]]:
    return [
        {"images": [{"bytes": png(number), "path": f"{number}.png"}], "prompt": f"What is {number}?", **ANSWERS}
        for number in range(count)
    ]


@pytest.mark.parametrize("group", (1, 7, 10, 16, 1000))
def test_each_picture_is_its_own_in_any_order(group: int, tmp_path: Path) -> None:
    found = list(read_pairs(write(tmp_path / "a.parquet", pairs(90), group)))
    order = list(range(90)) * 2
    random.Random(group).shuffle(order)
    assert [found[place].images[0].read() for place in [*range(90), *order]] == [
        png(place) for place in [*range(90), *order]
    ]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda place: found[place].images[0].read(), order)) == [png(place) for place in order]
    assert [picture.images[0].name for picture in found[:2]] == ["0.png", "1.png"]


def place_bytes(data: bytes) -> dict[str, Any]:
    return {"bytes": data, "path": None}


@pytest.mark.parametrize(
    "columns",
    (
        {"image": png(1)},
        {"images": [png(1)]},
        {"image_bytes": png(1)},
        {"jpg": png(1)},
        {"image": place_bytes(png(1))},
        {"images": [place_bytes(png(1))]},
        {"picture": place_bytes(png(1))},
        {"prompt": [{"role": "user", "content": [{"type": "image", "image": place_bytes(png(1)), "text": None},
                                                 {"type": "text", "image": None, "text": "What?"}]}]},
    ),
)  # fmt: skip
def test_bytes_are_found_wherever_they_stand(columns: dict[str, Any], tmp_path: Path) -> None:
    (pair,) = read_pairs(write(tmp_path / "a.parquet", [{"prompt": "What?", **ANSWERS} | columns]))
    assert isinstance(pair.images[0].reader, EmbeddedPicture)
    assert (pair.prompt, pair.images[0].read(), pair.images[0].data) == ("What?", png(1), None)


BASE64 = base64.b64encode(png(1)).decode()


@pytest.mark.parametrize(
    "columns",
    (
        {"image": BASE64},
        {"images": [BASE64]},
        {"image": f"data:image/png;base64,{BASE64}"},
        {"image_base64": BASE64},
        {"images": [{"bytes": BASE64, "path": None}]},
        {"images": [{"url": f"data:image/png;base64,{BASE64}"}]},
        {"prompt": [{"role": "user", "content": [{"type": "text", "text": "What?"}, {
            "type": "image_url", "image_url": {"url": f"data:image/png;base64,{BASE64}", "detail": "low"}}]}]},
        {"prompt": [{"role": "user", "content": [{"type": "image", "image": BASE64}, {"type": "text", "text": "What?"}]
        }]},
    ),
)  # fmt: skip
@pytest.mark.parametrize("name", ("a.jsonl", "a.json"))
def test_base64_in_json_lines_is_read_when_it_is_looked_at(name: str, columns: dict[str, Any], tmp_path: Path) -> None:
    lines = [{"prompt": "é?", **ANSWERS, "images": [BASE64[:-4] + "AAAA"]}, {"prompt": "What?", **ANSWERS} | columns]
    (tmp_path / name).write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    _, pair = read_pairs(tmp_path / name)
    assert isinstance(pair.images[0].reader, EmbeddedPicture)
    assert (pair.prompt, pair.images[0].read(), pair.images[0].data) == ("What?", png(1), None)
    (tmp_path / "list.json").write_text(json.dumps(lines))
    _, held = read_pairs(tmp_path / "list.json")
    assert held.images[0].read() == png(1)


def test_bytes_in_a_column_that_is_not_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="column 'thumbnail' names a picture and is not read"):
        list(read_pairs(write(tmp_path / "a.parquet", [{"thumbnail": png(1), "prompt": "p", **ANSWERS}])))


def test_equal_pictures_are_equal_and_one_row(tmp_path: Path) -> None:
    same = {"images": [{"bytes": png(1), "path": "1.png"}], "prompt": "What?", **ANSWERS}
    first, second = read_pairs(write(tmp_path / "a.parquet", [same, same | {"rejected": "cow"}]))
    assert first.images == second.images
    assert (first.row, second.row) == (0, 0)


def test_a_table_that_changed_is_an_error_and_no_other_picture(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", pairs(3))
    found = list(read_pairs(path))
    write(path, pairs(9)[5:])
    with pytest.raises(OSError, match=r"a\.parquet, row 1: its picture has changed since the table was read"):
        found[1].images[0].read()


def test_facts_are_kept_by_digest_so_that_no_other_process_reads_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    original = embedded.EmbeddedPicture.__call__

    def counted(picture: EmbeddedPicture) -> bytes:
        read.append(picture.row)
        return original(picture)

    monkeypatch.setattr(embedded.EmbeddedPicture, "__call__", counted)
    dataset = PreferenceFile(read=str(write(tmp_path / "a.parquet", pairs(20))), test_share=0)
    with shared_cache(tmp_path / "facts.sqlite") as cache:
        first = read_preferences(dataset, cache)
    assert sorted(read) == list(range(20))
    with shared_cache(tmp_path / "facts.sqlite") as cache:
        assert read_preferences(dataset, cache) == first
    picture = first.train[3].images[0]
    assert (digest_of(picture), size_of(picture)) == (HashCache().facts_of(picture).digest, (4, 4))
    assert len(read) == 21


def test_a_picture_in_a_table_that_does_not_open_is_named(tmp_path: Path) -> None:
    rows = pairs(3)
    rows[1]["images"] = [{"bytes": b"no image", "path": "1.png"}]
    dataset = PreferenceFile(read=str(write(tmp_path / "a.parquet", rows)), test_share=0, max_bad_rows=1)
    assert read_preferences(dataset).left_out == {"whose picture does not open": ["1"]}


def test_reading_a_table_takes_no_more_memory_than_a_few_rows(tmp_path: Path) -> None:
    import tracemalloc

    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    rows, size = [], 0
    for number in range(200):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (160, 160, 3), dtype="uint8")).save(file, "PNG")
        size += file.tell()
        rows.append({"images": [{"bytes": file.getvalue(), "path": None}], "prompt": str(number), **ANSWERS})
    path = write(tmp_path / "a.parquet", rows, group=1)
    del rows
    tracemalloc.start()
    held: list[Preference] = read_preferences(PreferenceFile(read=str(path), test_share=0)).train
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(held) == 200
    assert most < size / 2


def test_a_forked_process_reads_for_itself(tmp_path: Path) -> None:
    found = list(read_pairs(write(tmp_path / "a.parquet", pairs(40))))
    assert found[0].images[0].read() == png(0)
    child = os.fork()
    if child == 0:
        os._exit(0 if all(found[place].images[0].read() == png(place) for place in range(39, -1, -1)) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert found[1].images[0].read() == png(1)


def test_other_columns_stay_as_they_are(tmp_path: Path) -> None:
    rows = [{"a": [1, 2], "b": {"c": "x"}, "d": None, "e": b""}]
    assert list(read_records(write(tmp_path / "a.parquet", rows))) == rows


@pytest.mark.parametrize(("group", "told"), ((10, False), (90, True)))
def test_row_groups_that_are_slow_to_look_into_are_told_once(
    group: int, told: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "LARGE", 60 * len(png(0)))
    found = list(read_pairs(write(tmp_path / "a.parquet", pairs(90), group)))
    assert not caplog.text
    for pair in found[:2]:
        pair.images[0].read()
    assert caplog.text.count("row groups of up to 0 MB") == told
