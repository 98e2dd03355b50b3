"""`harness judge bench` with judges whose worth is known: exact, blind, random, always the first, silent, failing."""

import base64
import hashlib
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from harness.cli.main import run
from harness.judge_bench import ask
from harness.judge_bench.benches import BENCHES, read_scenes
from tasks.judges.official_prompts import PromptSource
from tasks.scenes.judge import ScenesJudge
from tests.judge.reply_makers import body

pytestmark = pytest.mark.usefixtures("no_keys")
JUDGE = "gpt-4o-2024-11-20"

Say = Callable[[dict[str, Any]], str]


def data_of(prompt: str) -> dict[str, str]:
    found: dict[str, str] = json.loads(prompt.splitlines()[-1])
    return found


def first(request: dict[str, Any]) -> str:
    return "Overall Judgment: Answer 1 is better."


def picture_in(request: dict[str, Any]) -> Image.Image:
    data = request["messages"][-1]["content"][1]["image_url"]["url"].partition(",")[2]
    return Image.open(io.BytesIO(base64.b64decode(data)))


def knowing(request: dict[str, Any]) -> str:
    """The scenes judge, behind a server: it sees the pictures that are sent."""
    return ScenesJudge().ask(text_in(request), picture_in(request))


def text_in(request: dict[str, Any]) -> str:
    return str(request["messages"][-1]["content"][0]["text"])


def second(request: dict[str, Any]) -> str:
    return first(request).replace("1", "2")


def chance(request: dict[str, Any]) -> str:
    number = hashlib.sha256(json.dumps(request["messages"]).encode()).digest()[0]
    return f"Overall Judgment: Answer {1 + number % 2} is better."


def completing(say: Say) -> Callable[[dict[str, Any]], tuple[int, Any]]:
    return lambda request: (200, body(say(request)))


def command(server: Any, out: Path, *more: str) -> list[str]:
    where = ["--judge-url", server.url, "--ledger", str(out / "ledger.sqlite"), "--out", str(out)]
    return ["judge", "bench", JUDGE, *where, "--judge-set", "attempts=1", *more]


def benched(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: int = 0
) -> tuple[dict[str, Any], dict[str, float]]:
    assert run([*arguments, "--json"]) == code, capsys.readouterr().err
    (result,) = json.loads(capsys.readouterr().out)["results"]
    return result, {figure["name"]: figure["value"] for figure in [*result["accuracy"], *result["beside"]]}


FOLLOWS, FIRST = "verdict follows the position", "verdict is the first answer both times"
EITHER, BOTH = "mean of both orders", "right in both orders"


def test_the_exact_judge_is_always_right(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result, found = benched(capsys, ["judge", "bench", "scenes", "--out", str(tmp_path)])
    assert result["pairs"] == len(read_scenes({})) > 300
    assert (result["lost"], result["unread"]) == (0, 0)
    names = ("overall", "macro", "object", "attribute", "relation", EITHER, BOTH)
    assert {found[name] for name in names} == {100.0}
    assert {found[FOLLOWS], found[FIRST]} == {0.0}


def test_planted_mistakes_are_of_every_kind_and_stand_on_either_side() -> None:
    pairs = read_scenes({})
    assert {pair.category for pair in pairs} == {"object", "attribute", "relation"}
    assert 0.3 < sum(pair.chosen_first for pair in pairs) / len(pairs) < 0.7
    assert len({pair.id for pair in pairs}) == len(pairs) > len({pair.image for pair in pairs})
    assert all(pair.chosen != pair.rejected for pair in pairs)


@pytest.mark.parametrize(
    ("reply", "overall", "either", "both", "follows", "says_first"),
    (
        (first, (40, 60), (50, 50), (0, 0), (100, 100), (100, 100)),
        (second, (40, 60), (50, 50), (0, 0), (100, 100), (0, 0)),
        (knowing, (100, 100), (100, 100), (100, 100), (0, 0), (0, 0)),
        (chance, (38, 62), (42, 58), (15, 35), (38, 62), (15, 35)),
    ),
    ids=["first", "second", "knowing", "chance"],
)
def test_a_judge_of_known_worth_is_measured(
    server: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    reply: Say,
    overall: Any,
    either: Any,
    both: Any,
    follows: Any,
    says_first: Any,
) -> None:
    server.answer = completing(reply)
    result, found = benched(capsys, command(server, tmp_path, "--limit", "160"))
    wanted = {"overall": overall, EITHER: either, BOTH: both, FOLLOWS: follows, FIRST: says_first}
    for name, (low, high) in wanted.items():
        assert low <= found[name] <= high, name
    main = result["accuracy"][0]
    assert main["low"] <= main["value"] <= main["high"]
    assert main["pairs"] == result["pairs"]


def test_nothing_is_paid_twice_and_the_price_comes_first(
    server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answer = completing(knowing)
    arguments = command(server, tmp_path, "--limit", "20")
    assert run([*arguments, "--dry-run", "--json"]) == 0
    (plan,) = json.loads(capsys.readouterr().out)["judging"]
    assert (plan["calls"], plan["kept"], server.log) == (40, 0, [])
    once = benched(capsys, arguments)
    assert len(server.log) == 40
    assert {(body["temperature"], body["top_p"], body["max_tokens"]) for body in server.log} == {(0.2, 0.2, 2048)}
    again = benched(capsys, arguments)
    assert len(server.log) == 40
    assert once[1] == again[1]
    benched(capsys, [*arguments, "--samples", "3"])
    assert len(server.log) == 40 + 2 * 20  # two more verdicts of each pair
    assert run(["judge", "ledger", "--ledger", str(tmp_path / "ledger.sqlite"), "--json"]) == 0
    (total,) = json.loads(capsys.readouterr().out)["ledger"]
    assert (total["task"], total["calls"]) == ("scenes", 80)


def test_the_majority_of_the_verdicts_counts(server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked: dict[str, int] = {}

    def mostly(request: dict[str, Any]) -> str:
        key = "".join(sorted([*data_of(text_in(request)).values(), str(request["messages"][-1]["content"][1])]))
        asked[key] = count = asked.get(key, 0) + 1
        return knowing(request) if count % 3 else "I can't say."

    server.answer = completing(mostly)
    arguments = command(server, tmp_path, "--limit", "10", "--samples", "5", "--judge-set", "concurrency=1")
    result, found = benched(capsys, arguments)
    assert found["overall"] == 100.0
    assert result["unread"] == 0


def test_without_a_verdict_a_pair_is_left_out_and_the_exit_code_tells(
    server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    silent = {pair.question + pair.chosen for pair in read_scenes({})[::12]}

    def reply(request: dict[str, Any]) -> str:
        data = data_of(text_in(request))
        mute = {data["question"] + data["answer_1"], data["question"] + data["answer_2"]} & silent
        return "Neither." if mute else knowing(request)

    server.answer = completing(reply)
    result, found = benched(capsys, command(server, tmp_path, "--limit", "100"), code=4)
    assert result["unread"] >= 15
    assert found["overall"] == 100.0
    assert result["accuracy"][0]["pairs"] == 100 - result["unread"]
    assert benched(capsys, command(server, tmp_path, "--limit", "100", "--max-failed", "0.5"))[0]["unread"]


def test_a_failed_call_is_no_verdict(server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoiled = {pair.rejected for pair in read_scenes({})[::2]}

    def answer(request: dict[str, Any]) -> tuple[int, Any]:
        if data_of(text_in(request))["answer_1"] in spoiled:
            return 400, {"error": {"message": "no", "code": "content_filter"}}
        return completing(knowing)(request)

    server.answer = answer
    result, found = benched(capsys, command(server, tmp_path, "--limit", "90"), code=4)
    assert result["lost"] >= 30
    assert found["overall"] == 100.0
    (reason,) = result["reasons"]
    assert reason["reason"].startswith("content filter")
    assert reason["count"] == result["lost"]
    assert reason["example"]
    assert result["accuracy"][0]["pairs"] == 90 - result["lost"]


def test_a_result_is_read_again(server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.answer = completing(chance)
    assert run(command(server, tmp_path, "--limit", "30")) == 0
    shown = capsys.readouterr().out
    (file,) = tmp_path.glob("scenes-*.json")
    assert run(["judge", "bench", "--read", str(file)]) == 0
    assert capsys.readouterr().out == shown
    assert "| overall " in shown
    file.write_text('{"schema": 1}', encoding="utf-8")
    assert run(["judge", "bench", "--read", str(file)]) == 2
    assert "is no result of harness judge bench: 'compared'" in capsys.readouterr().err


def test_batches_are_asked_alike(server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.reply = lambda prompt: "Overall Judgment: Answer 2 is better."
    where = ["--judge-url", server.url, "--ledger", str(tmp_path / "l.sqlite"), "--out", str(tmp_path)]
    arguments = ["judge", "bench", JUDGE, *where, "--limit", "10", "--samples", "3", "--judge-batch"]
    _, found = benched(capsys, arguments)
    assert (found[FOLLOWS], found[FIRST], len(server.log)) == (100.0, 0.0, 40)
    benched(capsys, arguments)
    assert len(server.log) == 40


def test_a_structured_judge_is_another_result(server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.reply = lambda prompt: "Overall Judgment: Answer 2 is better."
    result, found = benched(capsys, command(server, tmp_path, "--limit", "5", "--judge-set", "structured=true"))
    assert result["settings"]["structured"] == "true"
    assert (found[FOLLOWS], result["unread"]) == (100.0, 0)


def test_thoughts_decide_nothing(server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    thoughts = "<think>Overall Judgment: Answer 1 is better.</think>"
    server.answer = completing(lambda request: f"{thoughts}Overall Judgment: Answer 2 is better.")
    _, found = benched(capsys, command(server, tmp_path, "--limit", "5"))
    assert (found[FOLLOWS], found[FIRST]) == (100.0, 0.0)
    server.answer = completing(lambda request: thoughts)
    result, _ = benched(capsys, command(server, tmp_path / "other", "--limit", "3"), code=4)
    assert result["lost"] + result["unread"] == 3
    assert run(command(server, tmp_path / "third", "--limit", "5")) == 1  # no reply of eight
    assert "the first 8 requests were all refused: no verdict beside the judge's thoughts" in capsys.readouterr().err


def test_a_key_that_is_refused_ends_the_run(server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.answer = lambda request: (401, {"error": {"message": "wrong key", "code": "invalid_api_key"}})
    assert run(command(server, tmp_path)) == 1
    assert len(server.log) <= 16
    assert not list(tmp_path.glob("scenes-*"))


def write_multimodal(folder: Path, count: int) -> Path:
    rows = []
    for number in range(count):
        picture = folder / "images" / f"{number}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(picture)
        row = {"ID": f"nocaps_{number}", "Text": f"What is {number}?", "Image": f"images/{number}.png"}
        row |= {"Output1": "right" if number % 2 else "wrong", "Output2": "wrong" if number % 2 else "right"}
        rows.append({**row, "Better": "Output1" if number % 2 else "Output2", "Category": "knowledge"})
    (folder / "all_data.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder


def by_letters(request: dict[str, Any]) -> str:
    prompt = text_in(request)
    number = int(data_of(prompt)["question"].split()[-1].rstrip("?"))
    if number < 20:
        return "I can't say."
    return "He wrote [[A]], so: [[B]]" if data_of(prompt)["answer_b"] == "right" else "[[A]]"


def test_multimodal_rewardbench_asks_in_the_order_of_its_data_and_flips_the_official_coin(
    server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answer = completing(by_letters)
    folder = write_multimodal(tmp_path / "data", 60)
    more = ["--bench", "multimodal_rewardbench", "--data", f"multimodal_rewardbench={folder}", "--max-failed", "1"]
    result, found = benched(capsys, command(server, tmp_path, *more))
    coin = random.Random(123)
    thrown = [("A" if coin.random() < 0.5 else "B") == ("A" if number % 2 else "B") for number in range(20)]
    # Where B is right, the reply holds [[A]], too, which the official rule takes.
    assert found["overall"] == pytest.approx(100 * (sum(thrown) + 20) / 60)
    assert (result["unread"], found[EITHER], found[FOLLOWS]) == (20, 100.0, 0.0)
    assert result["accuracy"][1]["name"] == "knowledge"
    assert "macro" not in found
    assert {request["max_tokens"] for request in server.log} == {1024}
    assert not any("temperature" in request for request in server.log)
    assert run(command(server, tmp_path, *more, "--samples", "2")) == 2
    assert "multimodal_rewardbench asks once by its official rule" in capsys.readouterr().err


def test_the_authors_words_are_asked_for_by_name(
    server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ask, "fetch", lambda source: f"{source.url} Question: \0 One: \0 Two: \0.")
    monkeypatch.setattr(ask, "SOURCES", {"vl_rewardbench": PromptSource(url="theirs", sha256="", template=str)})
    server.answer = completing(first)
    result, _ = benched(capsys, command(server, tmp_path, "--limit", "2", "--official-prompts"))
    assert result["settings"]["prompts"] == "the authors'"
    texts = list(map(text_in, server.log))
    assert all(text.startswith("theirs Question: ") for text in texts)
    assert len(texts) == 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    (
        ([], "name either a judge or, by --model, a trained model"),
        (["scenes", "--model", "scenes-base"], "name either a judge or, by --model, a trained model"),
        (["scenes", "--bench", "vl_rewardbench"], "judge 'scenes': knows rendered scenes only, not vl_rewardbench"),
        (["scenes", "--official-prompts"], "reads our own prompts only"),
        (["scenes", "--reference", "scenes-base"], "--reference has no effect"),
        (["scenes", "--judge-url", "http://localhost:1"], "--judge-url has no effect"),
        (["scenes", "--bench", "scene"], "scenes"),
        (["scenes", "--data", "vl_rewardbench=x"], "'vl_rewardbench' is not among the tasks asked for: scenes"),
        (["--model", "scenes-base", "--samples", "3"], "--samples has no effect: with --model no judge is asked"),
        (["--model", "scenes-base", "--judge-url", "http://localhost:1"], "--judge-url has no effect"),
        (["--model", "scenes-base"], "the files of scenes-base name no base"),
        (["--model", "openai:x", "--reference", "scenes-base"], "which no server gives"),
        ([JUDGE], "set OPENAI_API_KEY, or name its server with --judge-url"),
    ),
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_would_not_act_is_an_error(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(["judge", "bench", *arguments, "--out", str(tmp_path / "out")]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_data_that_must_be_fetched_by_hand_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--judge-url", "http://127.0.0.1:1/v1", "--out", str(tmp_path)]
    assert run(["judge", "bench", "m", *where, "--bench", "multimodal_rewardbench"]) == 2
    assert "scripts/0_download_data.py filled" in capsys.readouterr().err


def test_all_benchmarks_have_their_template() -> None:
    for bench in BENCHES.values():
        assert "A dog." in bench.prompt("What?", "A dog.", "A cat.", None)
