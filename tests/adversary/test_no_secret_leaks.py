"""No planted secret is found in any file or stream, whatever a server repeats and however a command ends."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.cli.main import run
from tests.adversary.echo_server import echo_server
from tests.adversary.planted import ENVIRONMENT, FORMS, leaks_in, leaks_of, url_of

Command = Callable[..., int]


@pytest.fixture(scope="module")
def at() -> Iterator[str]:
    with echo_server() as found:
        yield found


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Command]:
    """Runs a command where secrets are planted; afterwards none may be anywhere."""
    monkeypatch.chdir(tmp_path)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    printed = []

    def ask(*words: str) -> int:
        code = run([*words])
        told = capfd.readouterr()
        printed.append(told.out + told.err)
        assert leaks_in(told.out + told.err) == [], (words, told)
        return code

    yield ask
    assert "".join(printed).strip()
    assert leaks_of(tmp_path) == {}


def test_the_search_finds_what_is_planted(tmp_path: Path) -> None:
    assert leaks_in(" ".join(form.decode() for _, form in FORMS)) == sorted({name for name, _ in FORMS})
    assert leaks_in("nothing") == []


EVAL = ("eval", "--model", "openai:cand", "--tasks", "scenes_pope", "--limit", "2", "--ledger", "l.sqlite")
TRIES = ("--model-set", "attempts=1", "--model-set", "timeout=5", "--model-set", "patience=0.1")


@pytest.mark.parametrize(
    ("mode", "by"),
    (
        ("list", "address"),
        ("ok", "key"),
        *(pytest.param(*both, marks=pytest.mark.slow) for both in (("ok", "address"), ("list", "key"))),
    ),
)
def test_a_model_that_repeats_what_it_was_sent(mode: str, by: str, at: str, command: Command) -> None:
    url = url_of(at, mode) if by == "address" else f"http://{at}/{mode}/v1"
    assert command(*EVAL, "-v", "--model-url", url) == 0
    assert command(*EVAL, "--model-url", url, "--json") == 0
    assert command("leaderboard", "runs", "--partial", "--html", "page.html") == 0
    assert command("leaderboard", "runs", "--partial", "--format", "csv") == 0
    assert command("leaderboard", "runs", "--partial", "--json") == 0
    assert command("leaderboard", "runs", "--partial", "--output", "lm-eval") == 0
    assert command("judge", "ledger", "--ledger", "l.sqlite", "--json") == 0
    assert command("judge", "export", "l.jsonl", "--ledger", "l.sqlite") == 0


@pytest.mark.parametrize("mode", ("400", "401", "403", "404", "429", "500", "redirect", "page", "cut"))
@pytest.mark.parametrize("by", ("address", pytest.param("key", marks=pytest.mark.slow)))
def test_a_server_that_refuses(mode: str, by: str, at: str, command: Command) -> None:
    url = url_of(at, mode) if by == "address" else f"http://{at}/{mode}/v1"
    assert command(*EVAL, *TRIES, "-v", "--model-url", url) in (1, 4)


@pytest.mark.parametrize("how", ("calls", pytest.param("batch", marks=pytest.mark.slow)))
def test_a_judge_that_repeats_what_it_was_sent(how: str, at: str, command: Command, tmp_path: Path) -> None:
    judge = ("--judge", "cand", "--judge-url", url_of(at, "list", odd=how == "calls"), "--ledger", "l.sqlite")
    more = ("--judge-batch",) * (how == "batch")
    for out in ("a", "b"):
        asked = ("eval", "--model", "scenes-base", "--tasks", "scenes_mmhal", "--limit", "3", "--out", out)
        assert command(*asked, *judge, *more) == 0
    assert command("leaderboard", "a", "--partial") == 0
    assert command("compare", "a", "b", "--partial") in (0, 2)
    gate = ("check", "--baseline", "a/board", "--board", "b/board", "--partial", "--require-better", "scenes_mmhal")
    command(*gate, "--junit", "gate.xml", "--comment", "gate.md", "--json")
    assert (tmp_path / "gate.xml").is_file()
    (log,) = (tmp_path / "a" / "board").glob("*.parquet")
    assert command("score", "scenes_mmhal", str(log), *judge, "--json") == 0
    assert command("judge", "export", "l.jsonl", "--ledger", "l.sqlite") == 0


@pytest.mark.slow
def test_a_pool_and_a_judge_of_preference_data(at: str, command: Command, tmp_path: Path) -> None:
    pool = [word for n in range(2) for word in ("--pool", f"cand@{n}={url_of(at)}")]
    build = ("vlfeedback", "build", "--source", "scenes", *pool, "--rows", "3", "--answers", "2", "--out", "d")
    judge = ("--judge", "cand", "--judge-url", url_of(at), "--ledger", "l.sqlite")
    assert command(*build, *judge, "--max-failed", "1", "-v") in (0, 4)
    assert (tmp_path / "d" / "instructions.jsonl").is_file()
    assert command(*build, "--plan") == 0
    assert command("povid", "inject", "scenes", "--rows", "3", "--out", "p", *judge) in (0, 1, 4)


@pytest.mark.parametrize(
    ("option", "url"),
    (
        ("--model-url", "http://planteduser41:QUERYKEYplanted2@127.0.0.1:1/v1?api-key=ODDplanted3"),
        ("--model-url", "http://planteduser41:QUERYKEYplanted2/x@127.0.0.1:99999/v1"),
        ("--model-url", "planteduser41:QUERYKEYplanted2@host/v1?key=ODDplanted3"),
        ("--model-url", "ftp://planteduser41:QUERYKEYplanted2@host/v1?key=ODDplanted3"),
        ("--model-url", "http://h ost/v1?key=ODDplanted3#QUERYKEYplanted2"),
        ("--model-key-env", "sk-PLANTEDkey5/678+90"),
        ("--nonsense", "http://planteduser41:QUERYKEYplanted2@host/v1?key=ODDplanted3"),
        ("--model-set", "base_url=http://planteduser41:QUERYKEYplanted2@host/v1?key=ODDplanted3"),
        ("--tasks", "http://planteduser41:QUERYKEYplanted2@host/v1?key=ODDplanted3"),
        ("--data", "scenes_pope=http://planteduser41:QUERYKEYplanted2@host/v1?key=ODDplanted3"),
        ("--model", "http://planteduser41:QUERYKEYplanted2@host/v1?key=ODDplanted3"),
    ),
)
def test_what_is_refused_is_named_without_its_secrets(option: str, url: str, command: Command) -> None:
    assert command(*EVAL, *TRIES, option, url) in (1, 2)


@pytest.mark.parametrize("mode", ("ok", "401"))
def test_an_address_in_the_environment(mode: str, at: str, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", url_of(at, mode))
    assert command(*EVAL, *TRIES) == (0 if mode == "ok" else 1)
    assert command("models", "--json") == 0
