"""Answers of local models, kept over runs and over the death of the process that made them."""

import math
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.engine.response_cache import Json, ResponseCache
from support.errors import StoreError
from tasks.answer import Answer, FailedAnswer
from tasks.judges.ledger import Ledger

MODEL: dict[str, Json] = {
    "weights": "59fa4fe91c5d7b9e",
    "adapter": None,
    "template": "t",
    "dtype": "float16",
    "device": "cpu",
}
ANY_TEXT = st.text(st.characters(exclude_categories=()))
"""Lone surrogates included."""


def key(number: int = 0, **changes: Json) -> dict[str, Json]:
    plain: dict[str, Json] = {
        "prompt": f"<image> Question {number}?",
        "images": ["ab" * 32],
        "settings": {"max_gen_toks": 64},
        "seed": 0,
    }
    return plain | changes


def test_an_answer_comes_back_with_all_that_is_known_of_it(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "answers.sqlite"
    store = ResponseCache(path)
    cache = store.of(MODEL)
    cache.put(key(1), Answer("Yes", cut=True, choices={"yes": -0.1234567890123456, "no": -math.inf}))
    cache.put(key(2), "plain text")
    cache.put(key(3), Answer(""))
    store.close()
    cache = ResponseCache(path).of(dict(reversed(MODEL.items())))
    first, second, third = cache.get(key(1)), cache.get(dict(reversed(key(2).items()))), cache.get(key(3))
    assert first is not None
    assert (first, first.cut, first.choices) == ("Yes", True, {"yes": -0.1234567890123456, "no": -math.inf})
    assert second is not None
    assert (second, second.cut, second.choices) == ("plain text", False, {})
    assert third == ""
    assert cache.get(key(4)) is None


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> ResponseCache:
    return ResponseCache(tmp_path_factory.mktemp("shared") / "a.sqlite")


@settings(deadline=None)
@given(text=ANY_TEXT, prompt=ANY_TEXT, choice=ANY_TEXT)
def test_any_text_comes_back(shared: ResponseCache, text: str, prompt: str, choice: str) -> None:
    cache, question = shared.of({"template": prompt}), key(prompt=prompt, about=[text, choice])
    cache.put(question, Answer(text, choices={choice: -1.0}))
    found = cache.get(question)
    assert found is not None
    assert (str(found), found.choices) == (text, {choice: -1.0})


def test_two_halves_of_a_character_are_not_the_character(tmp_path: Path) -> None:
    cache = ResponseCache(tmp_path / "a.sqlite").of(MODEL)
    cache.put(key(prompt="\ud83d\ude00"), "\ud83d\ude00")
    assert cache.get(key(prompt="\U0001f600")) is None
    assert list(str(cache.get(key(prompt="\ud83d\ude00")))) == ["\ud83d", "\ude00"]


@pytest.mark.parametrize("fact", MODEL)
def test_a_model_that_differs_in_anything_never_hits(tmp_path: Path, fact: str) -> None:
    store = ResponseCache(tmp_path / "a.sqlite")
    store.of(MODEL).put(key(), "mine")
    assert store.of(MODEL | {fact: "other"}).get(key()) is None
    assert store.of({name: value for name, value in MODEL.items() if name != fact}).get(key()) is None
    assert store.of(MODEL).get(key()) == "mine"


@pytest.mark.parametrize(
    "change",
    ({"prompt": "x"}, {"images": ["cd" * 32]}, {"settings": {"max_gen_toks": 65}}, {"seed": 1}, {"task": "mme 2"}),
)
def test_another_question_never_hits(tmp_path: Path, change: dict[str, Json]) -> None:
    cache = ResponseCache(tmp_path / "a.sqlite").of(MODEL)
    cache.put(key(), "mine")
    assert cache.get(key() | change) is None


def test_what_is_not_json_is_refused_as_a_key(tmp_path: Path) -> None:
    cache = ResponseCache(tmp_path / "a.sqlite").of(MODEL)
    with pytest.raises(TypeError):
        cache.put(key(settings=Path("x")), "mine")  # type: ignore[arg-type]


def test_failed_answers_are_not_kept(tmp_path: Path) -> None:
    store = ResponseCache(tmp_path / "a.sqlite")
    cache = store.of(MODEL)
    cache.put(key(), FailedAnswer("image can't be read"))
    assert cache.get(key()) is None
    assert count(tmp_path / "a.sqlite") == 0
    cache.put(key(), "read at last")
    assert cache.get(key()) == "read at last"


@pytest.mark.parametrize("cut", (False, True))
@pytest.mark.parametrize("limited", (False, True))
def test_how_an_answer_ended_comes_back(tmp_path: Path, cut: bool, limited: bool) -> None:
    cache = ResponseCache(tmp_path / "a.sqlite").of(MODEL)
    cache.put(key(), Answer("It is a", cut=cut, limited=limited))
    found = cache.get(key())
    assert found is not None
    assert (found.cut, found.limited) == (cut, limited)


def test_an_answer_that_is_not_whole_is_asked_for_again(tmp_path: Path) -> None:
    cache = ResponseCache(tmp_path / "a.sqlite").of(MODEL)
    cache.put(key(), Answer("<thi", cut=True))
    assert cache.get(key(), is_whole=lambda answer: answer != "<thi") is None
    assert cache.reused.count == 0
    cache.put(key(), Answer("<think>Yes?</think>No", cut=True))
    assert cache.get(key(), is_whole=lambda answer: answer != "<thi") == "<think>Yes?</think>No"


def test_the_first_answer_stays(tmp_path: Path) -> None:
    cache = ResponseCache(tmp_path / "a.sqlite").of(MODEL)
    cache.put(key(), "first")
    cache.put(key(), "second")
    assert cache.get(key()) == "first"


def count(path: Path) -> int:
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as db:
        return int(db.execute("SELECT COUNT(*) FROM answers").fetchone()[0])


WRITER = """
import sys
from pathlib import Path
from harness.engine.response_cache import ResponseCache
path, first, last = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
cache = ResponseCache(path).of({"weights": "w"})
for number in range(first, last):
    cache.put({"prompt": number}, f"answer {number}")
    print(number, flush=True)
"""


def writer(path: Path, first: int, last: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(first), str(last)], stdout=subprocess.PIPE, text=True
    )


def test_a_killed_process_loses_nothing_that_was_put(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    process = writer(path, 0, 10**9)
    assert process.stdout is not None
    for _ in range(100):
        process.stdout.readline()
    process.kill()
    told = 100 + len([line for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")])
    process.wait()
    store = ResponseCache(path)
    cache = store.of({"weights": "w"})
    assert [cache.get({"prompt": number}) for number in range(told)] == [f"answer {number}" for number in range(told)]
    assert count(path) - told in (0, 1)  # written, but not yet told
    cache.put({"prompt": -1}, "goes on")


def test_processes_share_a_file_from_its_making_on(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    processes = [writer(path, first, first + 400) for first in (0, 200, 400)]
    assert [(process.communicate()[0].count("\n"), process.returncode) for process in processes] == [(400, 0)] * 3
    store = ResponseCache(path)
    cache = store.of({"weights": "w"})
    assert [cache.get({"prompt": number}) for number in range(800)] == [f"answer {number}" for number in range(800)]
    assert count(path) == 800


def garbage(path: Path) -> None:
    path.write_bytes(b"no database at all, but long enough to be looked at" * 100)


def cut(path: Path) -> None:
    store = ResponseCache(path)
    for number in range(200):
        store.of(MODEL).put(key(number), "answer " * 50)
    store.close()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def ledger(path: Path) -> None:
    Ledger(path).close()


def later(path: Path) -> None:
    ResponseCache(path).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")


@pytest.mark.parametrize(
    ("make", "complaint"),
    (
        (garbage, "not a database"),
        (cut, "malformed"),
        (ledger, "another program"),
        (later, "99"),
        (Path.mkdir, "is a folder"),
    ),
)
def test_a_file_that_is_no_store_is_left_alone_and_named(
    tmp_path: Path, make: Callable[[Path], None], complaint: str
) -> None:
    path = tmp_path / "a.sqlite"
    make(path)
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(StoreError, match=complaint) as error:
        ResponseCache(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert (path.read_bytes() if path.is_file() else b"") == before


def test_a_file_damaged_inside_is_named_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    store = ResponseCache(path)
    cache = store.of(MODEL)
    for number in range(200):
        cache.put(key(number), "answer " * 50)
    store.close()
    data = bytearray(path.read_bytes())
    data[4 * 4096 :] = b"\xff" * (len(data) - 4 * 4096)
    path.write_bytes(data)
    store = ResponseCache(path)
    with pytest.raises(StoreError, match=r"a\.sqlite"):
        [store.of(MODEL).get(key(number)) for number in range(200)]
    store.close()
    with pytest.raises(StoreError, match=r"a\.sqlite.*closed"):
        store.of(MODEL)


def test_a_row_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    cache = ResponseCache(tmp_path / "a.sqlite").of(MODEL)
    cache.put(key(), "mine")
    with sqlite3.connect(tmp_path / "a.sqlite") as db:
        db.execute("UPDATE answers SET text = '{'")
    with pytest.raises(StoreError, match=r"a\.sqlite: a row is damaged"):
        cache.get(key())
