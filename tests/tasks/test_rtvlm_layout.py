"""RTVLM's repository as its authors' loader reads it: whose picture, what is expected, which requests have two."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tasks.documents import images, load
from tests.tasks.table_rows import load_metadata

SHADES = {"UnitedStates.jpg": 10, "Chad.jpg": 20, "JOHN.jpg": 30, "0.jpg": 40, "x/7.jpg": 50}


def put(folder: Path, table: str, archive: str, rows: list[dict[str, Any]], names: list[str]) -> None:
    for file in (folder / table, folder / archive):
        file.parent.mkdir(parents=True, exist_ok=True)
    (folder / table).write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with zipfile.ZipFile(folder / archive, "w") as packed:
        for name in names:
            buffer = io.BytesIO()
            shade = SHADES[name.rpartition("/")[2] if name.startswith(("flags/", "img/")) else name]
            Image.new("L", (8, 6), shade).save(buffer, "PNG")
            packed.writestr(name, buffer.getvalue())


@pytest.fixture
def found(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    flags = ["flags/UnitedStates.jpg", "flags/Chad.jpg"]
    safe, refuse = "Safe to Answer", "Refuse to Answer"
    wrong = {"question": "Is it Chad's?", "img": "United States", "answers": "Chad", "refused_to_answer": safe}
    put(
        tmp_path,
        "data/VisualMisleadingWrong/visual_misleading_wrong.jsonl",
        "data/VisualMisleadingWrong/img.zip",
        [wrong],
        flags,
    )
    right = {"question": "Is it theirs?", "img": "Chad", "answers": "United States", "refused_to_answer": safe}
    folder = "data/VisualMisleadingCorrect"
    put(tmp_path, f"{folder}/visual_misleading_correct.jsonl", f"{folder}/img.zip", [right], flags)
    order = {"question": "Which?", "img": ["Chad", "United States"], "answers": "A", "refused_to_answer": safe}
    put(tmp_path, "data/VisualOrderA/order_A.jsonl", "data/VisualOrderA/img.zip", [order], flags)
    captcha = {"instruction": "Read it.", "answer": "x7k", "id": 0}
    put(tmp_path, "data/Captcha/captcha.jsonl", "data/Captcha/img/img.zip", [captcha], ["0.jpg"])
    several = {"questions": ["Burning?", "Wet?"], "refused_to_answer": [safe, refuse], "answers": ["no", "yes"]}
    put(tmp_path, "data/Harmful/misleading.jsonl", "data/Harmful/img/img.zip", [{**several, "index": 0}], ["0.jpg"])
    jail = {"index": "JOHN", "instruction": "Follow it.", "refused_to_answer": refuse}
    put(tmp_path, "data/Jailbreak/jailbreak.jsonl", "data/Jailbreak/img/img.zip", [jail], ["JOHN.jpg"])
    (tmp_path / "data/Jailbreak/GPT4v.jsonl").write_text(json.dumps({"index": "JOHN", "question": "Not this."}))
    celebrity = {"prompt": "Who?", "refused_to_answer": "Proceed with Caution", "id": "x/7.jpg"}
    put(tmp_path, "data/Celebrity/mixed.jsonl", "data/Celebrity/mix.zip", [celebrity], ["x/7.jpg"])
    loaded = load(**load_metadata("rtvlm") | {"task": "rtvlm", "paths": {"rtvlm": str(tmp_path)}})["test"].to_list()
    assert "1 requests about two pictures at once are left out" in caplog.text
    return list(loaded)


def test_each_request_has_the_picture_of_the_authors_loader(found: list[dict[str, Any]]) -> None:
    shown = {doc["question"]: images(doc)[0].convert("L").tobytes()[0] for doc in found}
    assert shown == {
        "Is it Chad's?": 10,
        "Is it theirs?": 10,
        **{"Read it.": 40, "Burning?": 40, "Wet?": 40, "Follow it.": 30, "Who?": 50},
    }


def test_each_request_is_held_against_its_own_expectation(found: list[dict[str, Any]]) -> None:
    expected = {doc["question"]: doc["reference"] for doc in found}
    assert expected["Burning?"] == "Safe to Answer"
    assert expected["Wet?"] == "Refuse to Answer"
    assert expected["Read it."] == "Proceed with Caution"
    assert expected["Follow it."] == "Refuse to Answer"
