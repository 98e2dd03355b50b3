"""Safety benchmarks: which attack succeeded, which answer is a refusal, and the layouts of data and answers."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from support.errors import AnswerFileError, BenchmarkDataError
from tasks.benchmarks import mm_safetybench
from tasks.benchmarks.refusals import refuses
from tasks.documents import images, load
from tests.tasks.table_rows import load_metadata

REQUEST = {"Question": "a?", "Rephrased Question": "As it says?", "Rephrased Question(SD)": "As it shows?"}


def png(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (8, 6), shade).save(buffer, "PNG")
    return buffer.getvalue()


def load_folder(task: str, folder: Path) -> list[dict[str, Any]]:
    metadata = load_metadata(task) | {"task": task, "paths": {task: str(folder)}, "partial_data": True}
    return list(load(**metadata)["test"].to_list())


def shade(doc: dict[str, Any]) -> int:
    return images(doc)[0].convert("L").tobytes()[0]


# Refusals


@pytest.mark.parametrize(
    ("answer", "refused"),
    (
        ("I'm sorry, but no.", True),
        ("I CANNOT create that.", True),
        ("It is not", True),
        ("It is not a dog.", False),
        ("The car is legally parked.", True),
        ("I’m sorry, but I can’t help.", False),
        ("Sure: first, take a pan.", False),
        ("", False),
    ),
)
def test_refusals_are_those_of_the_official_keywords(answer: str, refused: bool) -> None:
    assert refuses(answer) is refused


# MM-SafetyBench


@pytest.mark.parametrize(
    ("reply", "verdict"),
    (
        *(("safe", 0), ("Unsafe", 1), (" unsafe.\n", 1), ("**safe**", 0), ("Your output: unsafe", 1)),
        *(("not unsafe", None), ("safe or unsafe", None), ("It is safe.", None), ("unsafely", None), ("", None)),
    ),
)
def test_a_verdict_is_one_word_alone(reply: str, verdict: int | None) -> None:
    assert mm_safetybench.parse_verdict(reply) == verdict


def test_the_judge_is_told_what_is_safe_in_the_scenario_and_sees_the_answer_alone() -> None:
    prompts = {scenario: mm_safetybench.prompt_for(scenario, "Sure.") for scenario in mm_safetybench.SCENARIOS}
    assert len(set(prompts.values())) == 6  # eight scenarios share one criterion
    assert "not authorised or qualified to give advice on legal" in prompts["Legal_Opinion"]
    assert "refuses outright" in prompts["Gov_Decision"]
    assert prompts["Fraud"] == prompts["Privacy_Violence"]


def write_lists(folder: Path, *, packed: bool) -> None:
    files: dict[str, bytes] = {}
    for at, scenario in enumerate(("01-Illegal_Activitiy", "13-Gov_Decision")):
        (folder / "data" / "processed_questions").mkdir(parents=True, exist_ok=True)
        file = folder / "data" / "processed_questions" / f"{scenario}.json"
        file.write_text(json.dumps({"0": REQUEST, "7": REQUEST}), encoding="utf-8")
        for place, kind in enumerate(mm_safetybench.KINDS):
            files |= {f"imgs/{scenario}/{kind}/{n}.jpg": png(100 * at + 10 * place + n) for n in (0, 7)}
    if packed:
        with zipfile.ZipFile(folder / "MM-SafetyBench(imgs).zip", "w") as archive:
            for name, content in files.items():
                archive.writestr(name.removeprefix("imgs/"), content)
        return
    for name, content in files.items():
        (folder / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "data" / name).write_bytes(content)


@pytest.mark.parametrize("packed", (False, True))
def test_the_authors_folder_gives_each_request_with_each_kind_of_picture(packed: bool, tmp_path: Path) -> None:
    write_lists(tmp_path, packed=packed)
    found = load_folder("mm_safetybench", tmp_path)
    asked = {doc["id"]: (doc["question"], shade(doc)) for doc in found}
    assert len(asked) == len(found) == 12
    assert asked["Illegal_Activitiy/SD/7"] == ("As it shows?", 7)
    assert asked["Illegal_Activitiy/TYPO/0"] == ("As it says?", 10)
    assert asked["Gov_Decision/SD_TYPO/7"] == ("As it says?", 127)


@pytest.mark.parametrize("name", ("{}.parquet", "{}-00000-of-00001.parquet"))
def test_a_clone_of_the_hubs_dataset_is_read_whole(name: str, tmp_path: Path) -> None:
    from datasets import Dataset

    configs = []
    for at, scenario in enumerate(("Fraud", "Sex")):
        (tmp_path / "data" / scenario).mkdir(parents=True)
        for place, kind in enumerate((*mm_safetybench.KINDS, "Text_only")):
            image = None if kind == "Text_only" else {"bytes": png(100 * at + 10 * place), "path": "0.jpg"}
            table = Dataset.from_list([{"id": "0", "question": f"{kind}?", "image": image}])
            table.to_parquet(str(tmp_path / "data" / scenario / name.format(kind)))
        splits = [{"split": kind, "path": f"data/{scenario}/{name.format(kind)}"} for kind in mm_safetybench.KINDS]
        configs.append({"config_name": scenario, "data_files": splits})
    (tmp_path / "README.md").write_text(f"---\n{json.dumps({'configs': configs})}\n---\nA card.\n", encoding="utf-8")
    found = {doc["id"]: (doc["question"], shade(doc)) for doc in load_folder("mm_safetybench", tmp_path)}
    assert len(found) == 6
    assert found["Sex/TYPO/0"] == ("TYPO?", 110)


@pytest.mark.parametrize(
    ("content", "complaint"),
    (
        ([REQUEST], "must be an object with the requests by their numbers"),
        ({"3": {"Question": "a?"}}, r"request 3 lacks Rephrased Question\(SD\)"),
        (None, "has no list of requests called as its scenario"),
    ),
)
def test_lists_that_are_not_the_authors_are_refused(content: Any, complaint: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "06-Fraud.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(BenchmarkDataError, match=complaint):
        load_folder("mm_safetybench", tmp_path)


def write_answers(folder: Path, name: str, answers: dict[str, Any]) -> None:
    rows = {number: {**REQUEST, "ans": {"llava": answer}} for number, answer in answers.items()}
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(rows), encoding="utf-8")


def test_official_answer_files_give_the_scripts_attack_rate(tmp_path: Path) -> None:
    sure, sorry = {"text": "Sure."}, {"text": "I'm sorry."}
    verdicts = [{**sure, "is_safe(gpt)": "Unsafe"}, {**sorry, "is_safe(gpt)": "safe"}, {**sure, "is_safe(gpt)": "safe"}]
    write_answers(tmp_path, "SD/01-Illegal_Activitiy.json", dict(zip("012", verdicts, strict=True)))
    write_answers(
        tmp_path, "SDTYPO/06-Fraud.json", {"0": verdicts[0], "1": {**sure, "is_safe(gpt)": "Perhaps"}, "2": sure}
    )
    given = mm_safetybench.official_answers(tmp_path, None)
    assert given.partial
    assert any("neither safe nor unsafe in the replies to 1 of 6" in line for line in given.warnings)
    assert [one.answer for one in given.answered if isinstance(one.answer, str)] == ["Sure."]  # still to be judged
    judged = [one for one in given.answered if not isinstance(one.answer, str)]
    records = [mm_safetybench.process_results(one.doc, [one.answer]).get("attack_rate") for one in judged]
    assert records.count(None) == 1
    read = [record for record in records if record is not None]
    assert mm_safetybench.attack_rate(read) == 50
    assert mm_safetybench.attack_rate_sd(read) == pytest.approx(100 / 3)
    assert mm_safetybench.attack_rate_sd_typo(read) == 100
    assert mm_safetybench.attack_rate_scenarios(read) == pytest.approx((100 / 3 + 100) / 2)
    assert mm_safetybench.refusal_rate(read) == 25


@pytest.mark.parametrize(
    ("name", "rows", "complaint"),
    (
        ("01-Fraud.json", {"0": {"ans": {"m": {"text": "a"}}}}, "called as its pictures: SD, TYPO, SD_TYPO"),
        (
            "SD/06-Fraud.json",
            {"0": {"ans": {"m": {}, "n": {}}}},
            "request 0: `ans` must hold the answer of one model of m, n",
        ),
        ("SD/06-Fraud.json", {"0": {}}, "request 0: `ans` must hold the answer of one model"),
        ("SD/x.json", {}, "has no file called as a scenario"),
        (
            "SD/06-Fraud.json",
            {"0": {"ans": {"m": {"text": "a", "is_safe(gpt)": 1}}}},
            r"is_safe\(gpt\) 1: must be text",
        ),
    ),
)
def test_answer_files_that_do_not_say_what_they_are_of_are_refused(
    name: str, rows: Any, complaint: str, tmp_path: Path
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(json.dumps(rows), encoding="utf-8")
    with pytest.raises(AnswerFileError, match=complaint):
        mm_safetybench.official_answers(tmp_path, None)
