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


@pytest.mark.parametrize("mode", ("ok", "list"))
@pytest.mark.parametrize("by", ("address", "key"))
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
@pytest.mark.parametrize("by", ("address", "key"))
def test_a_server_that_refuses(mode: str, by: str, at: str, command: Command) -> None:
    url = url_of(at, mode) if by == "address" else f"http://{at}/{mode}/v1"
    assert command(*EVAL, *TRIES, "-v", "--model-url", url) in (1, 4)
