import hashlib
import http.server
import re
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from support.errors import RunError
from tasks.benchmarks import hallusionbench, llava_bench, mmhal, mmvet
from tasks.judges import official_prompts as wording
from tasks.judges import protocol
from tasks.judges.official_prompts import PromptSource, string_of
from tasks.judges.protocol import JudgeSession, ThreadedJudge
from tasks.registry import registry
from tasks.scenes.judge import ScenesJudge

CODE = 'import os\n\ndef main():\n    other = "x"\n    template = """Rate {answer}.\n\nRating:"""\n'
TEMPLATE = "Rate {answer}.\n\nRating:"


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A real server with the authors' script; and a cache folder of our own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "eval.py").write_text(CODE, encoding="utf-8")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/eval.py"
    server.shutdown()
    server.server_close()


def source(url: str, text: str = TEMPLATE) -> PromptSource:
    return PromptSource(url=url, sha256=hashlib.sha256(text.encode()).hexdigest(), template=string_of("template"))


def test_the_template_is_taken_out_of_the_file_without_running_it(url: str) -> None:
    assert wording.fetch(source(url)) == TEMPLATE


def test_a_template_is_fetched_once(url: str) -> None:
    assert wording.fetch(source(url)) == wording.fetch(source("http://127.0.0.1:1/gone.py")) == TEMPLATE


def test_another_text_than_the_pinned_one_is_not_used(url: str) -> None:
    with pytest.raises(RunError, match=r"eval\.py: the prompt in it has sha256 .*: not used"):
        wording.fetch(source(url, "something else"))


def test_what_is_kept_is_checked_again(url: str, tmp_path: Path) -> None:
    wording.fetch(source(url))
    (kept,) = (tmp_path / "cache").rglob("*.txt")
    kept.write_text("Rating: 6, always", encoding="utf-8")
    assert wording.fetch(source(url)) == TEMPLATE


def test_no_network_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(RunError, match=r"http://127\.0\.0\.1:1/x\.py: can't fetch the official prompt"):
        wording.fetch(source("http://127.0.0.1:1/x.py"))


def test_our_own_words_are_used_unless_the_user_says_otherwise(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "SOURCES", {"mmhal": source(url)})
    assert JudgeSession(judge=ScenesJudge()).official_prompt("mmhal") is None
    assert JudgeSession(judge=ScenesJudge(), official_prompts=True).official_prompt("mmhal") == TEMPLATE


BUILT = """
def ask(data):
    for sample in data:
        prompt = 'Check. '
        prompt += 'Question:'
        prompt += sample['question']
        prompt += '\\nAnswer:'
        prompt += sample['answer']
        prompt += '\\nOutput:'
"""


def test_a_prompt_that_is_put_together_keeps_the_places_of_its_data() -> None:
    assert wording.pieces_of("ask")(BUILT) == "Check. Question:\0\nAnswer:\0\nOutput:"
    with pytest.raises(RunError, match="no function 'tell'"):
        wording.pieces_of("tell")(BUILT)


def test_every_source_is_pinned_to_a_commit() -> None:
    for name, pinned in wording.SOURCES.items():
        assert re.search(r"/[0-9a-f]{40}/", pinned.url), name
        assert re.fullmatch(r"[0-9a-f]{64}", pinned.sha256), name


def test_the_pinned_rules_of_llava_bench_are_the_golden_ones(golden: Callable[[str], Path]) -> None:
    text = golden("llava_bench/rule.json").read_text(encoding="utf-8")
    pinned = wording.SOURCES["llava_bench"]
    assert hashlib.sha256(pinned.template(text).encode()).hexdigest() == pinned.sha256


def test_the_official_words_are_filled_as_the_official_scripts_do() -> None:
    doc = {"image_content": ["Dog", "Cat"], "question": "What?", "gt_answer": "a dog"}
    doc |= {"answer": "-1<AND>-5", "gt_answer_details": "It is."}
    contents = "Contents {} question {} truth {} answer {}"
    assert mmhal.prompt(doc, "{0}", contents) == "Contents Dog, Cat question What? truth a dog answer {0}"
    assert mmvet.prompt_for(doc, "x | y", "Grade.") == "Grade.\nWhat? | -1 <AND> -5 | x | y | "
    assert hallusionbench.prompt_for(doc, "Yes.", "Q:\0R:\0A:\0.") == "Q:What?R:It is.A:Yes.."
    assert hallusionbench.same_prompt("No.", "Yes.", "1:\0 2:\0.") == "1:No. 2:Yes.."
    wild = {"caption": ["A dog.", "A cat."], "question": "What?", "gpt_answer": "Dog.", "category": "conv"}
    rules = '{"llava_bench_conv": {"role": "Assistant", "prompt": "Rate."}}'
    assert llava_bench.prompt_for(wild, "Cat.", rules) == (
        "[Context]\nA dog.\nA cat.\n\n[Question]\nWhat?\n\n[Assistant 1]\nDog.\n\n[End of Assistant 1]\n\n"
        "[Assistant 2]\nCat.\n\n[End of Assistant 2]\n\n[System]\nRate.\n\n"
    )


@pytest.mark.parametrize(
    ("name", "question"),
    (
        ("mmhal", {"image_content": ["Dog"], "question": "What?", "gt_answer": "a dog"}),
        ("mmvet", {"question": "What?", "answer": "a dog"}),
        ("llava_bench_wild", {"caption": "A dog.", "question": "What?", "gpt_answer": "Dog.", "category": "conv"}),
    ),
)
def test_a_judge_is_asked_in_the_official_words_where_the_session_says_so(
    name: str, question: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Reader(ThreadedJudge):
        model = "reader"

        def ask(self, prompt: str, image: Any = None, sampling: Any = None) -> str:
            asked.append(prompt)
            return "0.5"

    asked: list[str] = []
    theirs = '{"conv": {"role": "Official", "prompt": ""}}' if "llava" in name else "Official {} {} {} {}"
    monkeypatch.setattr(protocol, "fetch", lambda source: theirs)
    for official in (False, True):
        registry().judge(name)(["A dog."], [question], JudgeSession(judge=Reader(), official_prompts=official))
    assert ["Official" in prompt for prompt in asked] == [False, True]
