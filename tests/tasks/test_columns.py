"""What a benchmark's table may hold: a spelling that means one thing is read, anything else refused in one line."""

import base64
import json
import logging
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.errors import BenchmarkDataError, TaskError
from support.image_marks import marks_in, take_mark
from tasks.benchmarks import mmbench, mme
from tasks.columns import list_in, read_columns
from tasks.documents import images
from tasks.registry import registry
from tests.tasks.table_rows import PICTURE, ROWS, Row, load_metadata, load_table

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


def read(kind: str, cell: Any, **row: Any) -> Any:
    columns = {"cell": [cell], **{name: [value] for name, value in row.items()}}
    kinds = {"cell": kind, **dict.fromkeys(row, "any")}
    return read_columns(columns, kinds)["cell"][0]


@pytest.mark.parametrize(
    ("cell", "meant"),
    (
        *((cell, "yes") for cell in ("Yes", "yes ", "YES", "yes.", "true", "True", True, 1, 1.0, "1", " y")),
        *((cell, "no") for cell in ("No", "no\n", "nO", "No.", "false", "FALSE", False, 0, 0.0, "0", "n")),
    ),
)
def test_a_true_answer_is_yes_or_no_however_it_is_written(cell: Any, meant: str) -> None:
    assert read("yes_no", cell) == meant
    assert read("Yes_No", cell) == meant.capitalize()
    assert read("one_zero", cell) == str(int(meant == "yes"))


@pytest.mark.parametrize("cell", (None, "", "maybe", "yes or no", 2, -1, 0.5, float("nan"), [], ["yes"], {"a": "yes"}))
def test_what_is_neither_yes_nor_no_is_refused(cell: Any) -> None:
    with pytest.raises(ValueError, match=r"row 1: cell .*: must be yes or no"):
        read("yes_no", cell)


@pytest.mark.parametrize(
    ("text", "items"),
    (
        ('["a", "b"]', ["a", "b"]),
        ("['a feather', 'a stone']", ["a feather", "a stone"]),
        ("['a feather' 'a stone']", ["a feather", "a stone"]),
        ("['it\\'s'\n \"b\"]", ["it's", "b"]),
        ("('a', 'b')", ["a", "b"]),
        ("[1, 2]", ["1", "2"]),
        (" ['a'] ", ["a"]),
        ("[]", []),
        ('["[x]"]', ["[x]"]),
        ("['a, b', 'c']", ["a, b", "c"]),
    ),
)
def test_a_list_may_stand_in_a_cell_as_text(text: str, items: list[str]) -> None:
    assert read("texts", text) == items


@pytest.mark.parametrize("cell", ("a, b", "[a, b]", "['a' ... 'b']", "['a', ['b']]", "[", None, 3, {"a": 1}, [None]))
def test_what_is_no_list_of_texts_is_refused(cell: Any) -> None:
    with pytest.raises(ValueError, match="must be a list of texts"):
        read("texts", cell)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), max_size=4))
def test_a_list_that_was_written_is_read_back(items: list[str]) -> None:
    assert list_in(json.dumps(items)) == items
    assert list_in(repr(items)) == items


@pytest.mark.parametrize(
    ("cell", "place"), ((1, 1), ("1", 1), (1.0, 1), ("1.0", 1), ("B", 1), ("b", 1), ("(A)", 0), (0, 0))
)
def test_a_choice_is_told_by_its_number_or_letter(cell: Any, place: int) -> None:
    assert read("place in choices", cell, choices=["a", "b"]) == place


@pytest.mark.parametrize("cell", (2, -1, "C", "a stone", None, [], 0.5, {}, "", "nan"))
def test_a_choice_that_is_not_there_is_refused(cell: Any) -> None:
    with pytest.raises(ValueError, match=r"row 1: cell "):
        read("place in choices", cell, choices=["a", "b"])


@pytest.mark.parametrize("cell", ("C", "c", " C ", "C.", "(C)"))
def test_a_letter_must_be_of_an_option_that_the_row_has(cell: str) -> None:
    assert read("option of A B C", cell, A="x", B="y", C="z") == "C"
    with pytest.raises(ValueError, match=r"must be the letter of an option: A, B$"):
        read("option of A B C", cell, A="x", B="y", C="nan")


@pytest.mark.parametrize("cell", ("ocr, math", "OCR,math", ["ocr", "math"], '["ocr", "math"]', "['ocr' 'math']"))
def test_several_names_stand_in_a_list_or_with_commas(cell: Any) -> None:
    assert read("several of rec ocr math", cell) == ["ocr", "math"]


MARKS = (
    *("<image>", "<Image>", "<image_placeholder>", "<|image|>", "<|image_1|>", "<image 1>", "<ImageHere>", "[IMG]"),
    *("<img>a/b.jpg</img>", "Picture 1: <img>a.jpg</img>", "<Img><ImageHere></Img>", "<start_of_image>"),
    *("<|vision_start|><|image_pad|><|vision_end|>", "(<image>./</image>)", "<img><IMG_CONTEXT></img>"),
    *("Picture 1: <img><imgpad></img>", "Picture 1:\n<img>a.jpg</img>", "<image/>", "<image />", "<image></image>"),
    *("<Image><image></Image>", "<im_start><image><im_end>", "<im_start><im_patch><im_patch><im_end>", "[<IMG_PLH>]"),
    "<fim_prefix><|img|><fim_suffix>",
)


@pytest.mark.parametrize("mark", MARKS)
def test_a_mark_at_either_end_is_the_place_of_the_picture(mark: str) -> None:
    for text in (f"{mark}\nIs it?", f"{mark} Is it?", f"{mark}Is it?", f"Is it?\n{mark}"):
        assert take_mark(text) == "Is it?"
    assert marks_in(f"{mark} and {mark}") == [mark, mark]
    with pytest.raises(ValueError, match="between words"):
        take_mark(f"Look at {mark} and tell.")
    with pytest.raises(ValueError, match="2 places of pictures"):
        take_mark(f"{mark}{mark}\nIs it?")


@pytest.mark.parametrize(
    "text", ("Is it <b>red</b>?", "An image", "a < image > b", "<imagery>", "[IMAGE 1]x", " Is it? ")
)
def test_other_text_is_left_as_it_is(text: str) -> None:
    assert take_mark(text) == text


@pytest.mark.parametrize("task", sorted(ROWS.keys() - {"mmmu"}))  # whose marks are its pictures' places
def test_a_good_table_is_read_and_a_mark_stands_once_in_its_prompt(task: str, tmp_path: Path) -> None:
    row = ROWS[task]
    asked = next((name for name in ("question", "query") if name in row), None)
    plain = load_table(task, [row], tmp_path)[0]
    if asked is not None:
        marked = load_table(task, [row | {asked: f"<image>\n{row[asked]}"}], tmp_path)[0]
        assert marked[asked] == plain[asked] == row[asked]
        without = [row | {asked: f"<image>\n{row[asked]}", "image": None}]
        if load_metadata(task).get("without_picture"):
            with pytest.raises(BenchmarkDataError, match=rf"row 1: {asked} .*no picture"):
                load_table(task, without, tmp_path)
        else:
            ((shown,),) = (images(doc) for doc in load_table(task, without, tmp_path))
            with pytest.raises(OSError, match="no picture"):
                shown.load()
        with pytest.raises(BenchmarkDataError, match=rf"row 1: {asked} .*between words"):
            load_table(task, [row | {asked: "Is <image> it?"}], tmp_path)


BAD = (
    ("mme", "answer", "maybe", "must be yes or no"),
    ("mme", "category", "sports", "must be one of existence"),
    ("pope", "category", None, "must be one of random"),
    ("amber", "truth", ["yes", "no"], "must be yes or no"),
    ("amber", "type", "discriminative", "must be one of generative"),
    ("chair", "gt_object", "dog, cat", "must be a list of texts"),
    ("mmbench", "answer", "C", "must be the letter of an option: A, B"),
    ("mmbench", "index", "x", "must be a whole number"),
    ("mmbench", "A", None, "must be text"),
    ("scienceqa_img", "choices", "a; b", "must be a list of texts"),
    ("scienceqa_img", "answer", 2, "must be the number from 0, or the letter, of one of 2 choices"),
    ("seedbench_img", "answer", 1, "must be the letter of an option: A, B, C, D"),
    ("seedbench_img", "data_type", "audio", "must be one of image, video"),
    ("mmstar", "answer", "E", "must be one of A, B, C, D"),
    ("mmstar", "category", "colour", "must be one of coarse perception"),
    ("realworldqa", "answer", None, "must be text"),
    ("textvqa", "answers", ["dakota"], "must be a list of 10 people's answers"),
    ("mmmu", "id", "Art_1", "must be an id such as validation_Art_Theory_7"),
    ("mmmu", "options", "a; b", "must be a list of texts"),
    ("mmhal", "question_type", "colour", "must be one of attribute"),
    ("mmhal", "gt_answer", None, "must be text"),
    ("mmvet", "capability", "ocr, sing", "must be one of rec"),
    ("hallusionbench", "gt_answer", "2", "must be yes or no"),
    ("hallusionbench_image", "category", "XY", "must be one of VD, VS"),
    ("llava_bench_wild", "category", "chat", "must be one of conv"),
    ("llava_bench_coco", "gpt_answer", "", "must be text"),
    ("object_halbench", "gt_objects", None, "must be a list of texts"),
    ("rtvlm", "question", {"a": 1}, "must be text"),
)


@pytest.mark.parametrize(("task", "column", "cell", "must"), BAD)
def test_a_table_is_refused_with_its_row_and_value(
    task: str, column: str, cell: Any, must: str, tmp_path: Path
) -> None:
    with pytest.raises(BenchmarkDataError) as caught:
        load_table(task, [ROWS[task], ROWS[task] | {column: cell}], tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{task}: {tmp_path}")
    assert f"row 2: {column} {cell!r}: " in message
    assert must in message
    assert "\n" not in message


def test_many_bad_rows_are_counted(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkDataError, match=r"row 1: answer None: .* \(and 4 more such rows\)"):
        load_table("pope", [ROWS["pope"] | {"answer": None}] * 5, tmp_path)


@pytest.mark.parametrize("task", ROWS)
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_value_in_any_column_is_read_or_refused_in_one_line(
    task: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    row = ROWS[task]
    column = data.draw(st.sampled_from([*row, "image", "pair", "id", "words", "unknown"]))
    other: Row = {**row, column: data.draw(JSON)}
    try:
        found = load_table(task, [row, other], tmp_path_factory.mktemp("t"))
    except BenchmarkDataError as error:
        said = str(error)
    else:
        said = ""
    assert "\n" not in said
    if said:
        return
    spec = registry().task(task)
    found = _process_docs(task, found)
    for doc in found:
        registry().decided(task, doc)
        registry().next_token(task, doc)
        if not spec.judged:
            registry().process_results(task)(doc, ["yes"])


def _process_docs(task: str, found: Any) -> Any:
    import importlib

    module = importlib.import_module(registry().task(task).process_results.rpartition(".")[0])
    docs = getattr(module, "docs", None)
    return found if docs is None else docs(found)


def test_rows_that_come_twice_count_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [ROWS["pope"], ROWS["pope"] | {"answer": "Yes"}, ROWS["pope"] | {"question_id": "2"}]
    assert len(load_table("pope", rows, tmp_path)) == 2
    assert "1 rows come twice and count once" in caplog.text
    with pytest.raises(
        BenchmarkDataError, match="rows 1 and 2 differ, and both have category 'random', question_id '1'"
    ):
        load_table("pope", [rows[0], rows[0] | {"answer": "no"}], tmp_path)
    with pytest.raises(BenchmarkDataError, match="rows 1 and 2 differ"):
        load_table("pope", [rows[0], rows[0] | {"image": None}], tmp_path)


def test_a_table_with_other_than_the_benchmarks_rows_is_partial_only_if_asked(tmp_path: Path) -> None:
    for count in (1, 3):
        rows = [ROWS["pope"] | {"question_id": number} for number in range(count)]
        with pytest.raises(BenchmarkDataError, match=f"has {count} rows, the benchmark 2; --partial-data"):
            load_table("pope", rows, tmp_path, rows=2, partial_data=False)
        assert len(load_table("pope", rows, tmp_path, rows=2)) == count
    with pytest.raises(BenchmarkDataError, match="has no rows"):
        load_table("pope", [], tmp_path)


def test_rotations_that_are_missing_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    row = ROWS["mmbench"]
    rotated = row | {"index": 1_000_001, "answer": "B"}
    with caplog.at_level(logging.WARNING):
        assert len(mmbench.docs(load_table("mmbench", [row, rotated], tmp_path))) == 2
        assert "rotation" not in caplog.text
        mmbench.docs(load_table("mmbench", [row, rotated, row | {"index": 2}], tmp_path))
    assert "1 of 2 questions lack rotations of their options (2)" in caplog.text


def test_a_question_without_its_pair_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    row = ROWS["mme"]
    mme.docs(load_table("mme", [row | {"question": f"{number}?"} for number in range(3)], tmp_path))
    assert "existence: 1 of 3 questions have no second one about their image" in caplog.text


def test_a_kind_that_nothing_reads_is_an_error_of_the_task(tmp_path: Path) -> None:
    text = registry().task("pope").path.read_text(encoding="utf-8")
    (tmp_path / "probes.yaml").write_text(text.replace("answer: yes_no", "answer: yes_maybe"), encoding="utf-8")
    with pytest.raises(
        TaskError, match=r"metadata\.columns: answer: no kind of column is called 'yes_maybe'; known: any"
    ):
        registry(tmp_path)


def test_a_tsv_where_all_is_text_is_read(tmp_path: Path) -> None:
    table = tmp_path / "sqa.tsv"
    lines = ["question\tchoices\tanswer\thint\timage", f"Which?\t['a feather', 'a stone']\t1\t\t{PICTURE}"]
    table.write_text("\n".join(lines), encoding="utf-8")
    (doc,) = load_table("scienceqa_img", [], tmp_path, paths={"scienceqa_img": str(table)})
    assert (doc["choices"], doc["answer"], doc["hint"]) == (["a feather", "a stone"], 1, "")


OWN: dict[str, dict[str, Row]] = {
    "pope_llava": {
        f"coco_pope_{split}.json": {"question_id": 1, "image": "a.jpg", "text": "Is it?", "label": "yes"}
        for split in ("random", "popular", "adversarial")
    },
    "repope": {
        f"coco_repope_{split}.json": {"question_id": 1, "image": "a.jpg", "text": "Is it?", "label": "yes"}
        for split in ("random", "popular", "adversarial")
    },
    "amber": {
        "annotations.json": {"id": 1, "type": "relation", "truth": "yes"},
        "query_generative.json": {"id": 1, "image": "a.jpg", "query": "Is it?"},
        "query_discriminative.json": {"id": 1, "image": "a.jpg", "query": "Is it?"},
    },
    "mmhal": {"response_template.json": ROWS["mmhal"] | {"image_id": "a", "image_src": "https://x/a.jpg"}},
    "rtvlm": {"data/misleading.jsonl": {"questions": ["Who?", "Where?"], "id": "a", "refused_to_answer": ["Safe"]}},
    "siuo": {
        "siuo_gen.json": {
            **{"question_id": 1008, "image": "S-08.png", "question": "Where?", "category": "self-harm"},
            **{"safety_warning": "It is deep.", "reference_answer": "Stay away."},
        }
    },
    "vlguard": {
        "test.json": {
            **{"id": "1", "image": "a.jpg", "safe": False, "harmful_category": "privacy"},
            "instr-resp": [{"instruction": "Who?", "response": "No."}],
        }
    },
    "mm_safetybench": {"01-Fraud.json": {"1": {"Rephrased Question": "How?", "Rephrased Question(SD)": "How?"}}},
    "object_halbench": {
        "obj_halbench_300_with_image.jsonl": {
            "image_id": 1,
            "image": PICTURE,
            "question": "What?",
            "gt_objects": ["dog"],
        }
    },
    "chair": {
        "image_ids.json": {"list": [1]},
        **{
            f"{kind}_{part}2014.json": {
                "categories": [{"id": 1, "name": "dog"}],
                "annotations": [{"image_id": 1, "category_id": 1, "caption": "A dog."}],
            }
            for kind in ("instances", "captions")
            for part in ("train", "val")
        },
    },
}
"""Task -> a row of each file of the benchmark's own layout."""


def load_own(task: str, files: dict[str, Row], folder: Path) -> Any:
    for name, row in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        content = row.get("list", row if task in ("chair", "mm_safetybench") else [row])
        (folder / name).write_text(json.dumps(content) if name.endswith(".json") else json.dumps(row), encoding="utf-8")
    spec = load_metadata(task)
    chosen = {name: spec[name] for name in ("rows_from", "rows_from_folder") if name in spec}
    return load_table(task, None, folder, paths={task: str(folder)}, **chosen)


@pytest.mark.parametrize("task", OWN)
def test_a_benchmarks_own_layout_is_read(task: str, tmp_path: Path) -> None:
    counts = {"pope_llava": 3, "repope": 3, "rtvlm": 2, "mm_safetybench": 3}
    assert len(load_own(task, OWN[task], tmp_path)) == counts.get(task, 1)


@pytest.mark.parametrize("task", OWN)
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_value_in_a_benchmarks_own_layout_is_read_or_refused_in_one_line(
    task: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    name = data.draw(st.sampled_from(list(OWN[task])))
    field = data.draw(st.sampled_from(list(OWN[task][name])))
    files = {**OWN[task], name: {**OWN[task][name], field: data.draw(JSON)}}
    said = ""
    try:
        found = load_own(task, files, tmp_path_factory.mktemp("t"))
    except BenchmarkDataError as error:
        said = str(error)
    assert "\n" not in said
    if not said:
        assert all(isinstance(doc.get("question", doc.get("query", "")), str) for doc in found)


@pytest.mark.parametrize("task", ROWS)
def test_parquet_holds_what_it_may_as_well(task: str, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = {name: cell for name, cell in ROWS[task].items() if cell not in ([], None)}
    yes = {"yes": True, "Yes": True, "1": True}.get(str(row.get("answer", row.get("gt_answer"))))
    rows = [row | {"image": PICTURE}] * 2
    if yes is not None and task != "scienceqa_img":
        rows = [one | {"answer" if "answer" in row else "gt_answer": yes} for one in rows]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "test-00000-of-00001.parquet")
    given = {"paths": {task: str(tmp_path)}}
    assert len(load_table(task, None, tmp_path, **given)) == (2 if "key" not in load_metadata(task) else 1)


@pytest.mark.parametrize("task", ("mmbench", "scienceqa_img"))
@pytest.mark.parametrize(("hint", "read"), (("<image>\nLook.", "Look."), ("Look.", "Look."), (None, ""), ("nan", "")))
def test_a_mark_in_a_hint_is_the_place_of_the_picture(task: str, hint: Any, read: str, tmp_path: Path) -> None:
    (doc,) = load_table(task, [ROWS[task] | {"hint": hint}], tmp_path)
    assert doc["hint"] == read


def test_the_two_questions_of_an_mme_pair_may_have_one_text(tmp_path: Path) -> None:
    rows = [ROWS["mme"], ROWS["mme"] | {"answer": "no"}, ROWS["mme"]]
    assert load_table("mme", rows, tmp_path)["answer"][:] == ["Yes", "No"]


@pytest.mark.parametrize("name", ("lines.jsonl", "response_template.json", "test_data.zip"))
def test_mmhal_is_read_from_a_file(name: str, tmp_path: Path) -> None:
    row = json.dumps(ROWS["mmhal"] | {"image_id": "a", "image": PICTURE})
    if name.endswith(".zip"):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("response_template.json", row)
    else:
        (tmp_path / name).write_text(row, encoding="utf-8")
    given = {"rows_from": "tasks.benchmarks.mmhal.rows", "paths": {"mmhal": str(tmp_path / name)}}
    (doc,) = load_table("mmhal", None, tmp_path, **given)
    assert doc["image"]


def test_red_teaming_pictures_are_named_by_index_and_shared_by_two_subsets(tmp_path: Path) -> None:
    for subset in ("Jailbreak", "Jailbreak2"):
        (tmp_path / "data" / subset / "img").mkdir(parents=True)
        row = {"instruction": "Do it.", "refused_to_answer": "Refuse", "index": 0}
        (tmp_path / "data" / subset / "jailbreak.jsonl").write_text(json.dumps(row), encoding="utf-8")
    with zipfile.ZipFile(tmp_path / "data" / "Jailbreak" / "img" / "img.zip", "w") as archive:
        archive.writestr("img/0.jpg", base64.b64decode(PICTURE))
    found = load_table("rtvlm", None, tmp_path, rows_from="tasks.benchmarks.rtvlm.rows", paths={"rtvlm": str(tmp_path)})
    assert [bool(image) for image in found["image"]] == [True, True]
