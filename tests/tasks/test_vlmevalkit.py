"""VLMEvalKit's tables: the same questions, truths and pictures as from the hub's columns, and so the same scores."""

import base64
import csv
import importlib
import io
import json
import logging
import random
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from support.errors import BenchmarkDataError
from support.images import is_read
from tasks.benchmarks.realworldqa import ASKS_LETTER
from tasks.documents import load
from tasks.hub_data import other_data
from tasks.registry import registry
from tasks.vlmevalkit import DETAILS, TABLES
from tests.tasks.table_rows import ROWS, Row, load_metadata


def picture(number: int) -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20), (number, 2 * number, 3 * number)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def write_tsv(path: Path, rows: Sequence[Row]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t")
        writer.writeheader()
        writer.writerows(rows)
    return path


def documents(task: str, path: Path, **given: Any) -> list[dict[str, Any]]:
    """As they are asked, in the order of their questions."""
    metadata = load_metadata(task) | {"task": task, "paths": {task: str(path)}, "partial_data": True}
    found = load(**metadata | given)["test"]
    text = registry().task(task).path.read_text(encoding="utf-8")
    if named := re.search(r"process_docs: !function (\S+)", text):
        module, _, function = named[1].rpartition(".")
        found = getattr(importlib.import_module(module), function)(found)
    return sorted(found.to_list(), key=lambda doc: json.dumps(doc, sort_keys=True, default=str))


def scores(task: str, docs: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Of answers that are drawn by the question's words and its picture."""
    records: dict[str, list[Any]] = {}
    for doc in docs:
        asked = random.Random(f"{doc.get('question', doc.get('query'))} {doc['image']}")
        answer = asked.choice(["A", "B", "Yes", "No"])
        for metric, record in registry().process_results(task)(doc, [answer]).items():
            records.setdefault(metric, []).append(record)
    return {metric: str(registry().metric(task, metric)(found)) for metric, found in records.items()}


COUNT = 8
LETTERS = "ABCD"


def both(task: str) -> tuple[list[Row], list[Row]]:
    """Rows in the hub's columns, and the same ones in the kit's."""
    hub: list[Row] = []
    kit: list[Row] = []
    for number in range(COUNT):
        words, image = f"Question {number}?", picture(number // 2)
        # The kit writes a picture once.
        shown = image if number % 2 == 0 else str(number - 1)
        own: Row = {"index": number, "image": shown, "question": words}
        told: Row = {"image": image, "question": words}
        truth, letter = "Yes" if number % 3 else "No", LETTERS[number % 4]
        choices = {each: f"{each} of {number}" for each in LETTERS}
        if task == "mme":
            category = "color" if number < 4 else "OCR"
            hub.append({**told, "question_id": f"{number // 2}.png", "answer": truth, "category": category})
            kit.append({**own, "answer": truth, "category": category, "image_path": f"{number // 2}.png"})
        elif task in ("pope", "pope_llava"):
            splits = ["adversarial", "popular", "random"][: 1 + number % 3]
            hub += [{**told, "question_id": number, "answer": truth.lower(), "category": each} for each in splits]
            kit.append({**own, "answer": truth, "category": ",".join(splits)})
        elif task == "amber":
            kind = ("discriminative-relation", "relation", "discriminative-attribute-state")[number % 3]
            hub.append({"image": image, "id": number, "query": words, "type": kind, "truth": truth, "hallu": []})
            kit.append({**own, "answer": truth, "category": kind})
        elif task == "mmbench":
            row = {"hint": "", **choices, "answer": letter, "category": "c", "l2-category": "l", "split": "dev"}
            hub.append({**told, "index": number, **row, "hint": None})
            kit.append({**own, **row})
        elif task == "mmstar":
            asked = f"{words}\nOptions: A: a, B: b, C: c, D: d"
            row = {"question": asked, "answer": letter, "category": "math", "l2_category": "geometry"}
            hub.append({**told, "index": number, **row, "meta_info": {"source": "x"}})
            kit.append({**own, **row, "bench": "x"})
        elif task == "realworldqa":
            lines = "".join(f"{each}. {text}\n" for each, text in choices.items())
            hub.append({**told, "question": f"{words}\n{lines}{ASKS_LETTER}", "answer": letter})
            kit.append({**own, **choices, "answer": letter})
        elif task == "textvqa":
            said = [truth] * 8 + ["A", "it's"]
            hub.append({**told, "question_id": number, "answers": said, "image_id": str(number), "set_name": "val"})
            kit.append({**own, "answer": str(said)})
        elif task == "mmmu":
            subject, asked = ("Art", "Math")[number % 2], f"{words} <image 1> and <image 2>"
            row = {"id": f"validation_{subject}_{number}", "question": asked}
            about = {"options": str(list(choices.values())), "question_type": "multiple-choice", "answer": letter}
            if number == 5:
                about = {"options": "[]", "question_type": "open", "answer": "['Yes']"}
                choices = {"A": "Yes", "B": "Other Answers", "C": "", "D": ""}
            hub.append({"image_1": image, "image_2": picture(9), **row, **about})
            shown = str([image, picture(9)])
            kit.append({**own, **row, **choices, "image": shown, "answer": letter, "category": subject})
        elif task == "seedbench_img":
            spelled = ("Scene Understanding", "Instances Counting", "Text Understanding", "Instance Attributes")
            lower = {f"choice_{each.lower()}": text for each, text in choices.items()}
            dimension = {"data_type": "image", "question_type_id": (1, 5, 9, 3)[number % 4]}
            hub.append({**told, "question_id": number, **lower, "answer": letter, **dimension})
            kit.append({**own, **choices, "answer": letter, "category": spelled[number % 4]})
        elif task == "scienceqa_img":
            there = list(choices.values())[: 2 + number % 3]
            place = number % len(there)
            hint = "A hint." if number % 2 else ""
            hub.append({**told, "choices": there, "answer": place, "hint": hint})
            lettered = {each: there[at] if at < len(there) else "" for at, each in enumerate("ABCDE")}
            kit.append({**own, **lettered, "hint": hint, "answer": LETTERS[place], "category": "geography"})
        elif task == "mmvet":
            hub.append({**told, "question_id": number, "answer": "a<OR>b", "capability": "ocr,math"})
            kit.append({**own, "answer": "a<OR>b", "category": "ocr,math"})
        elif task == "llava_bench_wild":
            row = {"caption": "A dog.", "category": ("conv", "detail", "complex")[number % 3]}
            hub.append({**told, "question_id": number, "gpt_answer": "A dog.", **row})
            kit.append({**own, "gpt4_ans": "A dog.", **row})
        else:
            named = {"category": "VD", "subcategory": "illusion", "visual_input": "1", "set_id": str(number // 4)}
            named |= {"figure_id": str(number % 4 // 2), "question_id": str(number % 2)}
            hub.append({**told, **named, "gt_answer": str(int(truth == "Yes")), "gt_answer_details": f"{truth}."})
            index = {"index": "_".join(named.values()), "image": image}
            kit.append({**own, **index, "answer": truth, "category": "VD", "l2-category": "VD_illusion"})
    return hub, kit


@pytest.mark.parametrize("task", TABLES)
def test_the_kits_table_asks_and_scores_the_same(task: str, tmp_path: Path) -> None:
    hub, kit = both(task)
    (tmp_path / "hub.jsonl").write_text("\n".join(map(json.dumps, hub)), encoding="utf-8")
    own = documents(task, tmp_path / "hub.jsonl", rows_from=None)
    theirs = documents(task, write_tsv(tmp_path / TABLES[task].files[0], kit))
    numbered = {"id", "question_id", "index", "pair"} - ({"question_id"} if "hallusion" in task else set())
    assert len(own) == len(theirs) >= COUNT

    def asked(docs: Sequence[Row]) -> list[str]:
        kept = ({name: cell for name, cell in doc.items() if name not in numbered} for doc in docs)
        return sorted(json.dumps(doc, sort_keys=True) for doc in kept)

    assert asked(own) == asked(theirs)
    assert all(len(doc["image"]) == 32 for doc in theirs)
    if not registry().task(task).judged:
        assert scores(task, own) == scores(task, theirs) != {}


@pytest.mark.parametrize("task", TABLES)
def test_the_kits_table_is_found_among_its_others(task: str, tmp_path: Path) -> None:
    for other in TABLES:
        write_tsv(tmp_path / TABLES[other].files[0], both(other)[1])
    write_tsv(tmp_path / "MMBench_TEST_EN.tsv", both("mmbench")[1])
    file = documents(task, tmp_path / TABLES[task].files[0])
    assert documents(task, tmp_path) == file


def write_versions(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        write_tsv(folder / name, [{**row, "question": name} for row in both("mmbench")[1]])


@pytest.mark.parametrize(
    "others",
    (
        ("MMBench_DEV_EN_V11.tsv", "MMBench_DEV_CN.tsv", "MMBench_TEST_EN.tsv"),
        ("MMBench.tsv", "mmbench_dev_en_20231003.tsv", "mmbench_dev_20230712.tsv"),
    ),
)
def test_one_of_several_versions_is_read_and_told(
    others: tuple[str, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_versions(tmp_path, "MMBench_DEV_EN.tsv", *others)
    with caplog.at_level(logging.INFO):
        assert {doc["question"] for doc in documents("mmbench", tmp_path)} == {"MMBench_DEV_EN.tsv"}
    assert f"read: MMBench_DEV_EN.tsv; left alone: {', '.join(sorted(others))}" in caplog.text
    assert other_data("mmbench") == ""


@pytest.mark.parametrize(
    ("names", "told"),
    (
        (("MMBench_DEV_CN.tsv", "MMBench_DEV_CN_V11.tsv"), "tables of several versions; name one of them"),
        (("a/MMBench_DEV_EN.tsv", "b/MMBench_DEV_EN.tsv"), r"b/MMBench_DEV_EN\.tsv: differ; name one of them"),
    ),
)
def test_versions_that_nothing_tells_apart_are_refused(names: tuple[str, ...], told: str, tmp_path: Path) -> None:
    write_versions(tmp_path, *names)
    if names[0].startswith("a/"):
        write_tsv(tmp_path / names[1], both("mmbench")[1])
    with pytest.raises(BenchmarkDataError, match=told):
        documents("mmbench", tmp_path)


def test_a_table_that_is_there_twice_is_read_once(tmp_path: Path) -> None:
    write_versions(tmp_path, "MMBench_DEV_EN.tsv")
    (tmp_path / "again").mkdir()
    shutil.copy(tmp_path / "MMBench_DEV_EN.tsv", tmp_path / "again")
    assert documents("mmbench", tmp_path) == documents("mmbench", tmp_path / "again")


@pytest.mark.parametrize(
    ("name", "said"),
    {
        "MMBench_DEV_EN_V11.tsv": "table MMBench_DEV_EN_V11",
        "MMBench_DEV_CN_V11.tsv": "language cn",
        "MMBench_TEST_EN.tsv": "split test",
        "mmbench_dev_en.tsv": "",
        "mine.tsv": "",
    }.items(),
)
def test_other_data_than_the_benchmarks_are_noted(name: str, said: str, tmp_path: Path) -> None:
    write_versions(tmp_path, name)
    documents("mmbench", tmp_path)
    assert other_data("mmbench") == said
    documents("mmbench", tmp_path / name)  # a file that is named itself may be of any split
    assert other_data("mmbench") == said.replace("split test", "table MMBench_TEST_EN")


def test_the_hubs_own_table_comes_first(tmp_path: Path) -> None:
    write_tsv(tmp_path / "MMVet.tsv", both("mmvet")[1])
    (tmp_path / "mine.jsonl").write_text(json.dumps({**ROWS["mmvet"], "image": picture(9)}))
    assert [doc["question"] for doc in documents("mmvet", tmp_path)] == ["What?"]


def test_a_version_of_pope_is_told_apart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = write_tsv(tmp_path / "POPE.tsv", both("pope")[1])
    documents("pope", table)
    assert other_data("pope") == "table of pope_llava"
    assert "VLMEvalKit has the questions of pope_llava, not of pope" in caplog.text
    with pytest.raises(BenchmarkDataError, match="rows, the benchmark 9000"):
        documents("pope", table, partial_data=False)


def test_hallusionbench_takes_the_authors_details_from_their_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub, kit = both("hallusionbench")
    table = write_tsv(tmp_path / "HallusionBench.tsv", kit)
    assert {doc["gt_answer_details"] for doc in documents("hallusionbench_image", table)} == {"Yes.", "No."}
    assert "8 of 8 rows have no gt_answer_details: the judge reads Yes or No in its place" in caplog.text
    caplog.clear()
    (tmp_path / DETAILS).write_text(json.dumps([{**row, "gt_answer_details": "It is so."} for row in hub]))
    assert {doc["gt_answer_details"] for doc in documents("hallusionbench_image", table)} == {"It is so."}
    assert not caplog.text


@pytest.mark.parametrize(
    ("task", "column", "cell", "must"),
    (
        ("hallusionbench", "index", "7", "must be category_subcategory_visual_input_set_id_figure_id_question_id"),
        ("seedbench_img", "category", "Cooking", "row 8: category 'Cooking': must be one of scene understanding"),
        ("pope", "category", "often", "category 'often': must be one of random, popular, adversarial"),
        ("scienceqa_img", "B", "", "row 8: has option C and none before it at B"),
        ("seedbench_img", "category", "10", "row 8: category '10': must be one of scene understanding"),
        ("pope", "category", "[random", "category '\\[random': must be one of random, popular, adversarial"),
        ("scienceqa_img", "answer", "E", "must be the number from 0, or the letter, of one of 3 choices"),
    ),
)
def test_a_row_that_the_kit_does_not_write_is_refused(
    task: str, column: str, cell: str, must: str, tmp_path: Path
) -> None:
    kit = both(task)[1]
    kit[-1][column] = cell
    with pytest.raises(BenchmarkDataError, match=must):
        documents(task, write_tsv(tmp_path / "t.tsv", kit))


@pytest.mark.parametrize("form", ("['{}', '{}']", '["{}","{}"]', "{}, {}"))
def test_popes_categories_may_be_a_list(form: str, tmp_path: Path) -> None:
    rows = [{**row, "category": "adversarial,popular"} for row in both("pope")[1]]
    asked = documents("pope_llava", write_tsv(tmp_path / "POPE.tsv", rows))
    written = [{**row, "category": form.format("adversarial", "popular")} for row in rows]
    assert documents("pope_llava", write_tsv(tmp_path / "POPE.tsv", written)) == asked


@pytest.mark.parametrize("form", ("{}", "{}.0"))
def test_seedbenchs_dimensions_may_be_numbers(form: str, tmp_path: Path) -> None:
    rows = both("seedbench_img")[1]
    asked = documents("seedbench_img", write_tsv(tmp_path / "SEEDBench_IMG.tsv", rows))
    numbered = [{**row, "category": form.format((1, 5, 9, 3)[number % 4])} for number, row in enumerate(rows)]
    assert documents("seedbench_img", write_tsv(tmp_path / "SEEDBench_IMG.tsv", numbered)) == asked


def test_a_table_with_tabs_may_be_utf_16(tmp_path: Path) -> None:
    table = write_tsv(tmp_path / "MMBench_DEV_EN.tsv", both("mmbench")[1])
    asked = documents("mmbench", table)
    table.write_text(table.read_text("utf-8"), "utf-16", newline="")
    assert documents("mmbench", table) == asked == documents("mmbench", tmp_path)


@pytest.mark.parametrize("form", ("{}.0", "['{}']", '["{}"]'))
def test_an_index_with_a_point_or_in_a_list_leads_to_the_rows_picture(form: str, tmp_path: Path) -> None:
    rows = both("mmbench")[1]
    other = {**rows[0], "index": int(rows[0]["index"]) + 1_000_000, "image": form.format(rows[0]["index"])}
    own = {**rows[0], "image": form.replace(".0", "").format(rows[0]["image"])}
    kept = documents("mmbench", write_tsv(tmp_path / "MMBench_DEV_EN.tsv", [own, other]))
    assert len(kept) == 2
    assert len({doc["image"] for doc in kept}) == 1
    assert is_read(kept[0]["image"])
