"""Protocols: whose wording a question has, and what entries and comparisons say of it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.cli.main import run
from harness.engine.config import EngineConfig
from harness.evaluation.eval_settings import EvalSettings, on_board
from harness.evaluation.evaluate import evaluate
from harness.evaluation.find_boards import references
from harness.evaluation.protocol import asked_by, find_protocol, known
from harness.models.spec import ModelSpec, find
from leaderboards.board.board import Board
from leaderboards.comparison.paired_logs import protocol_differences
from leaderboards.views.published import beside
from support.errors import SettingError
from tasks.registry import registry
from tests.harness.test_benchmarks import TABLES, write_amber, write_parquet
from tests.harness.zoo import FAMILIES

LLAVA = ModelSpec(name="x", pretrained="llava-hf/llava-1.5-7b-hf", backend="openai")
QWEN_VL = ModelSpec(name="x", pretrained="Qwen/Qwen-VL-Chat", backend="openai")
QWEN_2_5 = ModelSpec(name="x", pretrained="Qwen/Qwen2.5-VL-7B-Instruct", backend="openai")
UNKNOWN = ModelSpec(name="x", pretrained="gpt-4o", backend="openai")
WORD = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."
CHOICES: dict[str, Any] = {"question": "Which?", "hint": None, "A": "a dog", "B": "a cat", "C": None, "D": "nan"}


def put(spec: ModelSpec, task: str, doc: dict[str, Any], asked: str, choice: str = "official") -> str:
    return asked_by(choice, registry().task(task), spec).put(doc, asked)


def test_llava_is_asked_as_its_scripts_ask() -> None:
    assert put(LLAVA, "pope", {}, "<image>Is there a dog?") == f"<image>Is there a dog?{WORD}"
    yes_no = {"question": "Is it so?  Please answer yes or no."}
    assert put(LLAVA, "mme", yes_no, "<image>Is it so?  Please answer yes or no.") == f"<image>Is it so?{WORD}"
    assert put(LLAVA, "mmbench", CHOICES, "<image>Which?\nA. a dog") == f"<image>Which?\nA. a dog{LETTER}"
    for task in ("mmvet", "llava_bench_wild", "scienceqa_img", "seedbench_img"):
        assert put(LLAVA, task, {}, f"<image>Why?{LETTER}") == f"<image>Why?{LETTER}"
    limits = {name: asked_by("official", registry().task(name), LLAVA).max_new_tokens for name in ("pope", "mmvet")}
    assert limits == {"pope": 128, "mmvet": 1024}


def test_other_families_are_asked_in_their_own_words() -> None:
    assert put(QWEN_VL, "mme", {}, "<image>Is it? Please answer yes or no.").endswith("yes or no.")
    assert put(QWEN_2_5, "pope", {}, "<image>Is there a dog?") == "<image>Is there a dog? Please answer yes or no."
    options = "Question: Which?\nOptions:\nA. a dog\nB. a cat\nPlease select the correct answer from the options above."
    assert put(QWEN_2_5, "mmbench", CHOICES, "<image>Which?") == f"<image>{options}"
    assert put(UNKNOWN, "mmbench", CHOICES | {"hint": "Look."}, "<image>W") == f"<image>Hint: Look.\n{options} \n"
    assert put(UNKNOWN, "pope", {}, "<image>Is there a dog?") == "<image>Is there a dog?"


@pytest.mark.parametrize("kind", ("discriminative-hallucination", "discriminative-attribute-state", "relation"))
def test_amber_asks_for_yes_or_no_where_that_is_the_answer(kind: str) -> None:
    asked = "<image>Is there a dog?"
    assert put(UNKNOWN, "amber", {"type": kind}, asked) == f"{asked}\nPlease answer yes or no."
    assert put(UNKNOWN, "amber", {"type": "generative"}, "<image>Describe this image.") == "<image>Describe this image."
    assert put(UNKNOWN, "amber", {"type": kind}, asked, "bare") == asked


def test_questions_of_scenes_stay_as_they_are() -> None:
    for task in registry().expand(["scenes"]):
        for choice in ("official", "bare"):
            asking = asked_by(choice, task, find("scenes-base"))
            assert (asking.fact, asking.put({}, "<image>Is there?")) == ("bare", "<image>Is there?")


@pytest.mark.parametrize("family", ("llava", "qwen2_5_vl", "qwen2_vl", "llava_next", "internvl"))
def test_a_folder_is_known_by_its_files(family: str, tmp_path: Path) -> None:
    FAMILIES[family](tmp_path)
    names = {"llava": "llava-1.5", "qwen2_5_vl": "qwen2.5-vl", "qwen2_vl": "qwen2.5-vl"}
    found = asked_by("official", registry().task("pope"), find(str(tmp_path))).protocol
    assert found == names.get(family, "bare")


def test_every_shipped_wording_names_its_source_and_a_task() -> None:
    for protocol in known().values():
        assert protocol.source
        assert all(wording.source for wordings in protocol.tasks.values() for wording in wordings)
    assert set(known()) == {"benchmark", "llava-1.5", "qwen-vl-chat", "qwen2.5-vl"}


def test_a_file_of_ones_own_says_how_each_half_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'system = "Be careful."\n[[tasks.amber]]\nonly = {type = "generative"}\nprefix = "In short: "\n'
        '[[tasks.amber]]\ntext = "{{ query }} ({{ asked | length }})"\nmax_new_tokens = 7\n'
    )
    asking = asked_by(str(path), registry().task("amber"), UNKNOWN)
    assert asking.put({"type": "generative", "query": "?"}, "<image>Describe.") == "<image>In short: Describe."
    assert asking.put({"type": "relation", "query": "So?"}, "<image>So?") == "<image>So? (3)"
    assert (asking.protocol, asking.system, asking.max_new_tokens) == ("mine", "Be careful.", 7)
    assert asked_by(str(path), registry().task("pope"), UNKNOWN).put({}, "a") == "a"
    other = asked_by("official", registry().task("amber"), UNKNOWN)
    assert other.fact != asking.fact


@pytest.mark.parametrize(
    ("text", "said"),
    (
        ("[tasks.popo]\nsuffix = 'x'", "'popo' is no task.*pope"),
        ("sufix = 'x'", "unknown key 'sufix'"),
        ("[tasks.pope]\nsufix = 'x'", "unknown key 'sufix'.*suffix"),
        ("picture = 'padded'", "picture = 'padded': must be one of pad, own"),
        ("[tasks.pope]\nsuffix = 3", "suffix = 3: must be text"),
        ("[tasks.pope]\nmax_new_tokens = 0", "max_new_tokens = 0: must be a number of tokens"),
        ("[tasks.pope]\ntext = '{{ question'", "text: "),
        ("[tasks]\npope = 3", "must be a table"),
        ("tasks = 3", "must be tables"),
        ("[tasks.pope]\nonly = 3", "only: must map columns"),
        ("[tasks.pope]\nonly = {category = [3]}", "must be a list of texts"),
        ("[", "--protocol"),
    ),
)
def test_what_is_wrong_with_a_file_is_one_line(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(SettingError, match=said) as caught:
        find_protocol(str(path))
    assert "\n" not in str(caught.value)
    assert "mine.toml" in str(caught.value)


def test_an_unknown_protocol_is_told_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SettingError, match=r"--protocol 'llava-1\.6': unknown.*llava-1\.5"):
        EvalSettings(protocol="llava-1.6")
    with pytest.raises(SettingError, match=r"--protocol nowhere\.toml: No such file"):
        EvalSettings(protocol="nowhere.toml")
    assert run(["eval", "--model", "scenes-base", "--protocol", "offical", "--dry-run"]) == 2
    assert "--protocol 'offical': unknown" in capsys.readouterr().err


def test_a_text_that_reaches_for_more_than_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    for text, said in (("{{ nothing }}", "nothing"), ("{{ asked.__class__.__mro__ }}", "unsafe")):
        path = tmp_path / f"{len(text)}.toml"
        path.write_text(f'[tasks.pope]\ntext = "{text}"')
        with pytest.raises(SettingError, match=f"protocol {len(text)}: text .*{said}"):
            put(UNKNOWN, "pope", {}, "Is it?", str(path))


def answers_to(
    name: str, data: Path, settings: EvalSettings, engine: EngineConfig, answering: Callable[..., Any]
) -> tuple[Any, list[str]]:
    seen: list[str] = []

    def answer(prompt: str, _: list[Any]) -> str:
        seen.append(prompt)
        return "Yes"

    settings = replace(settings, data={name: str(data)}, partial_data=True)
    lm, spec = answering(answer), ModelSpec(name="echo", pretrained="nowhere")
    task = registry().task(name)
    return evaluate(spec, [task], None, settings, engine=engine, load=lambda *_, **__: lm), seen


def test_entries_record_the_protocol_and_prompts_have_its_words(tmp_path: Path, answering: Callable[..., Any]) -> None:
    data, none = write_amber(tmp_path), EngineConfig()
    official, asked = answers_to("amber", data, EvalSettings(), none, answering)
    yes_no = [prompt for prompt in asked if "Describe" not in prompt]
    assert yes_no
    assert len(yes_no) < len(asked)
    assert all(prompt.endswith("\nPlease answer yes or no.") == (prompt in yes_no) for prompt in asked)
    bare, plain = answers_to("amber", data, EvalSettings(protocol="bare"), none, answering)
    assert not any("Please answer" in prompt for prompt in plain)
    facts = [found.entries[0].provenance["protocol"] for found in (official, bare)]
    assert facts[0].startswith("benchmark ")
    assert facts[1] == "bare"
    before, after = bare.entries[0], official.entries[0]
    assert protocol_differences(before, after) == [f"protocol was 'bare', is {facts[0]!r}"]
    old = replace(before, provenance={name: value for name, value in before.provenance.items() if name != "protocol"})
    assert protocol_differences(old, before) == []
    assert protocol_differences(old, after) == [f"protocol was 'bare', is {facts[0]!r}"]


def test_a_suffix_of_one_task_stands_in_place_of_all_others(tmp_path: Path, answering: Callable[..., Any]) -> None:
    data = write_parquet(tmp_path, TABLES["pope"])
    engine = EngineConfig(suffix=" For all.", suffixes={"pope": " Yes or no?"})
    found, asked = answers_to("pope", data, EvalSettings(protocol="llava-1.5"), engine, answering)
    assert all(prompt.endswith("? Yes or no?") for prompt in asked)
    assert found.entries[0].provenance["prompt suffix"] == " Yes or no?"
    assert WORD not in asked[0]
    other = EngineConfig(suffix=" For all.", suffixes={"mme": " Yes or no?"})
    found, asked = answers_to("pope", data, EvalSettings(), other, answering)
    assert all(prompt.endswith("? For all.") for prompt in asked)
    assert found.entries[0].provenance["prompt suffix"] == " For all."


def test_a_score_of_another_protocol_is_not_the_one_on_the_board(tmp_path: Path) -> None:
    task, spec = registry().task("scenes_pope"), find("scenes-base")
    board, path = Board(tmp_path / "board"), tmp_path / "mine.toml"
    path.write_text('system = "Be careful."')
    found = evaluate(spec, [task], None, EvalSettings(limit=4))
    board.add(found.entries, found.samples)
    for choice, there in (("official", True), ("bare", True), (str(path), False)):
        assert on_board(board, spec, spec.name, [task], None, EvalSettings(limit=4, protocol=choice)) is there
    engine = EngineConfig(suffixes={"scenes_pope": " Briefly."})
    assert not on_board(board, spec, spec.name, [task], None, EvalSettings(limit=4), engine)
    other = EngineConfig(suffixes={"pope": " Briefly."})
    assert on_board(board, spec, spec.name, [task], None, EvalSettings(limit=4), other)


def test_a_reported_score_that_was_asked_otherwise_is_marked(tmp_path: Path, answering: Callable[..., Any]) -> None:
    data, none = write_parquet(tmp_path, TABLES["mme"]), EngineConfig()
    rows = [each for each in references() if (each.task, each.metric) == ("mme", "perception")]
    assert {each.protocol for each in rows} >= {"llava-1.5", "qwen-vl-chat", ""}
    for choice, marked in (("bare", {"LLaVA-1.5-7B", "Qwen-VL-Chat"}), ("llava-1.5", {"Qwen-VL-Chat"})):
        found, _ = answers_to("mme", data, EvalSettings(protocol=choice), none, answering)
        lines = beside(found.entries, rows).splitlines()
        names = {line.split("|")[1].strip() for line in lines if line.startswith("|") and "≠" in line}
        assert names & {"LLaVA-1.5-7B", "Qwen-VL-Chat", "LaVIN"} == marked
        assert f"- ≠: mme was asked by qwen-vl-chat, here by {choice}" in lines


def test_published_rows_name_protocols_there_are() -> None:
    named = {row.protocol for task in registry().tasks.values() for row in task.published} - {""}
    assert named == {"llava-1.5", "qwen-vl-chat"}
    assert named <= set(known())
