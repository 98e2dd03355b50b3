import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from support.errors import BenchmarkDataError
from tasks import documents as hub
from tasks.documents import images

COLUMNS = ["question", "answer", "image"]


def png(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), (shade, shade, shade)).save(buffer, "PNG")
    return buffer.getvalue()


def load(path: Path | str, **given: Any) -> Any:
    facts: dict[str, Any] = {"task": "probes", "data": "us/probes", "revision": "abc", "columns": COLUMNS, "rows": 2}
    return hub.load(**facts | {"paths": {"probes": str(path)}} | given)["test"]


@pytest.fixture
def rows() -> list[dict[str, str]]:
    return [
        {"question": "Dog?", "answer": "yes", "image": "a.png"},
        {"question": "Cat?", "answer": "no", "image": "deep/b.png"},
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pictures" / "deep").mkdir(parents=True)
    (tmp_path / "pictures" / "a.png").write_bytes(png(10))
    (tmp_path / "pictures" / "deep" / "b.png").write_bytes(png(20))
    return tmp_path


def shades(documents: Any) -> list[int]:
    return [picture.convert("L").tobytes()[0] for doc in documents for picture in images(doc)]


def write_parquet(path: Path, cells: list[Any]) -> None:
    from datasets import Dataset, Features, List, Value
    from datasets import Image as ImageColumn

    column = List(ImageColumn()) if isinstance(cells[0], list) else ImageColumn()
    features = Features({"question": Value("string"), "answer": Value("string"), "image": column})
    table = {"question": ["Dog?", "Cat?"], "answer": ["yes", "no"], "image": cells}
    Dataset.from_dict(table, features=features).to_parquet(str(path))


@pytest.mark.parametrize("suffix", ("jsonl", "json", "tsv", "csv"))
def test_a_table_beside_its_pictures_is_read(suffix: str, folder: Path, rows: list[dict[str, str]]) -> None:
    table = folder / f"table.{suffix}"
    if suffix == "json":
        table.write_text(json.dumps(rows), encoding="utf-8")
    elif suffix == "jsonl":
        table.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    else:
        comma = "\t" if suffix == "tsv" else ","
        table.write_text(
            "\n".join(comma.join(line) for line in [list(rows[0]), *(list(row.values()) for row in rows)]),
            encoding="utf-8",
        )
    for path in (table, folder):
        documents = load(path)
        assert documents["question"][:] == ["Dog?", "Cat?"]
        assert shades(documents) == [10, 20]


@pytest.mark.parametrize("in_list", (False, True))
def test_a_parquet_file_in_the_hubs_schema_is_read(in_list: bool, tmp_path: Path) -> None:
    cells: list[Any] = [{"bytes": png(10), "path": None}, {"bytes": png(20), "path": None}]
    write_parquet(tmp_path / "test-00000-of-00001.parquet", [[cell] for cell in cells] if in_list else cells)
    assert shades(load(tmp_path)) == [10, 20]


def test_base64_cells_are_pictures_and_a_number_names_the_row_that_has_one(tmp_path: Path) -> None:
    picture = base64.b64encode(png(10) + bytes(2000)).decode()
    lines = ["index\tquestion\tanswer\timage", f"1\tDog?\tyes\t{picture}", "1000001\tCat?\tno\t1"]
    (tmp_path / "bench.tsv").write_text("\n".join(lines), encoding="utf-8")
    assert shades(load(tmp_path / "bench.tsv")) == [10, 10]


@pytest.mark.parametrize("kind", ("jsonl", "parquet"))
def test_a_document_without_picture_shows_none_or_fails(kind: str, tmp_path: Path, monkeypatch: Any) -> None:
    from support import picture_keys

    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(picture_keys, "QUIET_TIME", -(10**12))
    if kind == "parquet":
        write_parquet(tmp_path / "t.parquet", [None, {"bytes": png(10), "path": None}])
    else:
        lines = [{"question": "1+1=2?", "answer": "yes", "image": None}, {"question": "2", "answer": "no"}]
        (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for _ in range(2):  # the second time by the keys that are kept
        assert images(load(tmp_path, without_picture=True)[0]) == []
        (shown,) = images(load(tmp_path)[0])
        with pytest.raises(OSError, match="no picture"):
            shown.load()


def test_an_empty_column_of_pictures_gives_way_to_another(folder: Path, rows: list[dict[str, str]]) -> None:
    from datasets import Dataset

    named = [{"question": row["question"], "answer": row["answer"], "image_path": row["image"]} for row in rows]
    (folder / "t.jsonl").write_text("\n".join(json.dumps({**row, "image": ""}) for row in named))
    assert shades(load(folder)) == [10, 20]
    (folder / "t.jsonl").unlink()
    Dataset.from_list([{**row, "image": None} for row in named]).to_parquet(folder / "t.parquet")
    assert shades(load(folder)) == [10, 20]


def test_a_missing_picture_fails_when_it_is_looked_at_and_not_before(folder: Path, rows: list[dict[str, str]]) -> None:
    rows[1]["image"] = "gone.png"
    (folder / "t.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    first, second = (images(doc)[0] for doc in load(folder))
    assert first.size == (8, 6)
    with pytest.raises(OSError, match=r"gone\.png"):
        second.load()


def test_what_is_missing_is_named(folder: Path, rows: list[dict[str, str]]) -> None:
    table = folder / "t.jsonl"
    table.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.raises(BenchmarkDataError, match=r"probes: .* has no column category; it has question, answer, image"):
        load(folder, columns=[*COLUMNS, "category"])
    with pytest.raises(
        BenchmarkDataError, match=r"probes: .* has 2 rows, the benchmark 9000; --partial-data scores what is there"
    ):
        load(folder, rows=9000)
    assert len(load(folder, rows=9000, partial_data=True)) == 2
    with pytest.raises(BenchmarkDataError, match=r"probes: --data .*nothing: no such file or folder"):
        load(folder / "nothing")
    with pytest.raises(BenchmarkDataError, match=r"no \.parquet, \.arrow, \.jsonl"):
        load(folder / "pictures")
    table.write_text('{"question": ', encoding="utf-8")
    with pytest.raises(BenchmarkDataError, match=r"probes: .*t\.jsonl, line 1: not JSON"):
        load(folder)


def test_data_that_is_on_no_hub_is_asked_for() -> None:
    with pytest.raises(
        BenchmarkDataError,
        match=r"probes: its data \(us/probes\) is not on the hub .*: give --data probes=PATH, a folder of scans",
    ):
        load("", paths={}, local="a folder of scans")


def test_the_hub_that_cannot_be_reached_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def offline(*_: Any, **__: Any) -> Any:
        raise ConnectionError("Couldn't reach the Hub\nand more")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(
        BenchmarkDataError,
        match=r"^probes: can't load us/probes at revision abc: Couldn't reach the Hub; behind a firewall give",
    ):
        load("", paths={})


def own_rows(folder: Path) -> list[dict[str, Any]]:
    return [
        {"question": path.stem, "answer": "yes", "image": str(path.relative_to(folder))}
        for path in sorted(folder.rglob("*.png"))
    ]


def test_a_task_may_read_its_own_layout(folder: Path) -> None:
    documents = load(folder, rows_from="tests_own_rows.own_rows")
    assert documents["question"][:] == ["a", "b"]
    assert shades(documents) == [10, 20]


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    import types

    module = types.ModuleType("tests_own_rows")
    module.own_rows = own_rows  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tests_own_rows", module)


SMALL = base64.b64encode(png(30)).decode()
CELLS: dict[str, Any] = {
    "a path": "deep/b.png",
    "a path from the table": "pictures/deep/b.png",
    "an end of a path": "x/pictures/deep/b.png",
    "base64": SMALL,
    "base64 in lines": "\n".join(SMALL[at : at + 19] for at in range(0, len(SMALL), 19)),
    "url-safe base64 without padding": SMALL.replace("+", "-").replace("/", "_").rstrip("="),
    "a data address": f"data:image/png;base64,{SMALL}",
    "bytes as base64 in a struct": {"bytes": SMALL, "path": None},
    "a path in a struct": {"bytes": None, "path": "deep/b.png"},
    "an address in a struct": {"url": f"data:image/png;base64,{SMALL}"},
    "a list": [SMALL],
}
BAD_CELLS: dict[str, Any] = {
    "another folder": "shallow/b.png",
    "long": "x" * 5000,
    "a long part": f"{'y' * 300}/b.png",
    "no base64": "data:image/png;base64,???",
    "cut base64": SMALL[:60],
    "several": [SMALL, SMALL],
    "text": "data:text/plain;base64,aGVsbG8gd29ybGQgaGVsbG8=",
    "struct": {"bytes": "??", "path": "a.png"},
    "folder": "pictures",
    "true": True,
}


@pytest.mark.parametrize("form", CELLS)
def test_a_cell_may_hold_its_picture_in_any_form(form: str, folder: Path) -> None:
    rows = [{"question": "Dog?", "answer": "yes", "image": CELLS[form]}]
    (folder / "t.jsonl").write_text(json.dumps(rows[0]))
    assert shades(load(folder / "t.jsonl", rows=1)) == [20 if "path" in form else 30]


@pytest.mark.parametrize("form", BAD_CELLS)
def test_a_bad_cell_is_its_rows_failure(form: str, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"question": "Dog?", "answer": "yes", "image": cell} for cell in (BAD_CELLS[form], SMALL)]
    (folder / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (bad,), (good,) = (images(doc) for doc in load(folder / "t.jsonl"))
    with pytest.raises(OSError):  # noqa: PT011 (of several kinds)
        bad.load()
    assert good.getpixel((0, 0)) == (30, 30, 30)


def test_missing_pictures_are_told_at_load(
    folder: Path, rows: list[dict[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    rows[0]["image"] = "other/b.png"
    (folder / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    load(folder / "t.jsonl")
    assert "probes: 1 of 2 pictures can't be had: row 1, 'other/b.png': missing picture: of this name" in caplog.text


def test_names_of_several_folders_are_not_one_picture_beside_the_table(
    folder: Path, rows: list[dict[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.png", "c.png", "COCO_val2014_000000000007.jpg"):
        (folder / name).write_bytes(png(10))
    foreign = {"c.png": ("/x/vg/c.png", "vg/c.png"), "a.png": ("/x/vg/a.png", "coco/a.png")}
    named = [*foreign["c.png"], *foreign["a.png"], *(f"{n}/COCO_val2014_000000000007.jpg" for n in ("val", "test"))]
    (folder / "t.jsonl").write_text("\n".join(json.dumps({**rows[0], "image": name}) for name in named))
    documents = load(folder / "t.jsonl", rows=6)
    assert shades(documents.select([0, 1, 4, 5])) == [10] * 4
    assert "2 of 6 pictures can't be had: row 3, '/x/vg/a.png': ambiguous picture: " in caplog.text
    assert "a.png can't be /x/vg/a.png and coco/a.png" in caplog.text


def test_a_number_is_another_rows_index_only_where_that_row_holds_a_picture(folder: Path) -> None:
    (folder / "pictures" / "7.png").write_bytes(png(70))
    (folder / "pictures" / "8.png").write_bytes(png(80))
    rows: list[dict[str, Any]] = [
        {"index": 7, "image": 8},
        {"index": 8, "image": 7},
        {"index": 9, "image": SMALL},
        {"index": 10, "image": 9},
    ]
    table = "\n".join(json.dumps({"question": "Dog?", "answer": "yes", **row}) for row in rows)
    (folder / "t.jsonl").write_text(table)
    assert shades(load(folder / "t.jsonl", rows=4)) == [80, 70, 30, 30]


@pytest.mark.parametrize("kind", ("binary", "string"))
def test_a_plain_column_of_parquet_may_hold_pictures(kind: str, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    cells = [png(10), png(20)] if kind == "binary" else [base64.b64encode(png(shade)).decode() for shade in (10, 20)]
    table = {"question": ["Dog?", "Cat?"], "answer": ["yes", "no"], "image": pa.array(cells, kind)}
    pq.write_table(pa.table(table), tmp_path / "t.parquet")
    assert shades(load(tmp_path / "t.parquet")) == [10, 20]


def test_a_whole_table_of_which_a_row_comes_twice_lacks_one(tmp_path: Path, rows: list[dict[str, str]]) -> None:
    table = tmp_path / "table.json"
    for second, complaint in ((rows[0], "has 1 rows, the benchmark 2"), ({**rows[0], "answer": "no"}, "differ, and")):
        table.write_text(json.dumps([rows[0], second]), encoding="utf-8")
        with pytest.raises(BenchmarkDataError, match=complaint):
            load(table, key=["question"])


def test_a_column_is_found_by_the_name_of_other_public_tables(folder: Path, rows: list[dict[str, str]]) -> None:
    table = folder / "table.json"
    other = [{"gold": row["answer"], **{name: row[name] for name in ("question", "image")}} for row in rows]
    kinds = {"question": "question", "answer": "yes_no", "image": "any"}
    table.write_text(json.dumps(other), encoding="utf-8")
    assert load(table, columns=kinds, other_names={"answer": "gold"})["answer"][:] == ["yes", "no"]
    with pytest.raises(BenchmarkDataError, match="has no column answer"):
        load(table, columns=kinds)
    table.write_text(json.dumps([{**row, "gold": "?"} for row in rows]), encoding="utf-8")
    assert load(table, columns=kinds, other_names={"answer": "gold"})["answer"][:] == ["yes", "no"]


@pytest.mark.parametrize("kind", ("parquet", "jsonl"))
def test_a_decoded_image_stands_before_the_path_of_it(kind: str, tmp_path: Path) -> None:
    from datasets import Dataset

    own = [base64.b64encode(png(shade)).decode() for shade in (10, 20)]
    asked = {"question": "Dog?", "answer": "yes", "image": "images/1.jpg"}
    rows = [{**asked, "decoded_image": cell} for cell in own]
    if kind == "parquet":
        Dataset.from_list(rows).to_parquet(tmp_path / "t.parquet")
    else:
        (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert shades(load(tmp_path)) == [10, 20]


def test_a_tables_pictures_are_not_read_at_a_second_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import Dataset

    from support import picture_keys

    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(picture_keys, "QUIET_TIME", -(10**12))
    write_parquet(tmp_path / "test.parquet", [{"bytes": png(10), "path": None}, {"bytes": png(20), "path": None}])
    before = load(tmp_path)["image"][:]
    looked_at: list[int] = []
    get = Dataset.__getitem__

    def counted(self: Any, key: Any) -> Any:
        looked_at.extend([key] if isinstance(key, int) and self.column_names == ["image"] else [])
        return get(self, key)

    monkeypatch.setattr(Dataset, "__getitem__", counted)
    documents = load(tmp_path)
    assert (documents["image"][:], looked_at) == (before, [])
    assert shades(documents) == [10, 20]


def test_a_broken_picture_in_a_table_stays_broken_at_a_second_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from support import picture_keys

    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(picture_keys, "QUIET_TIME", -(10**12))
    several = [{"bytes": png(10), "path": None}] * 2
    write_parquet(tmp_path / "test.parquet", [[{"bytes": b"no picture at all", "path": None}], several])
    keys = [list(load(tmp_path)["image"]) for _ in range(2)]
    assert keys[0] == keys[1]
    for doc in load(tmp_path):
        with pytest.raises(OSError, match=r"not an image|several pictures"):
            images(doc)[0].load()
