"""Models and judges that installed packages add by entry points."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.cli.application import run
from harness.evaluation.make_judge import make_judge
from harness.models.spec import WEIGHTS, find, named_models
from support.errors import InputError, SettingError
from support.installed import installed

CODE = f"""\
from harness.models.spec import ModelSpec

MODEL = ModelSpec(name="any", pretrained={str(WEIGHTS / "scenes-base")!r}, description="a small one of theirs")


class Judge:
    model = "their-judge"

    def ask_many(self, questions, sampling=None, *, label="", repeat=0):
        return ["Grade: 5" for _ in questions]


def nothing():
    return None
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Installs a package with these entry points."""

    def install(points: str) -> None:
        (tmp_path / "their_pack.py").write_text(CODE)
        about = tmp_path / "their_pack-1.dist-info"
        about.mkdir()
        (about / "METADATA").write_text("Name: their-pack\nVersion: 1\n")
        (about / "entry_points.txt").write_text(points)
        monkeypatch.syspath_prepend(str(tmp_path))
        installed.cache_clear()

    yield install
    sys.modules.pop("their_pack", None)
    monkeypatch.undo()
    installed.cache_clear()


def test_a_model_of_a_package_has_its_name_and_is_imported_when_it_is_named(
    package: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    package("[harness.models]\ntheir-model = their_pack:MODEL\n")
    with pytest.raises(InputError, match="did you mean 'their-model'"):
        find("their-modle")
    assert "their_pack" not in sys.modules
    assert find("their-model").name == "their-model"
    assert run(["models"]) == 0
    assert "a small one of theirs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("points", "said"),
    (
        ("scenes-base = their_pack:MODEL", "the name 'scenes-base' is taken by one of ours"),
        ("x = their_pack:nothing", "is no ModelSpec but function"),
        ("x = no_such_pack:MODEL", "entry point x of harness.models: no_such_pack:MODEL: ModuleNotFoundError"),
    ),
)
def test_a_model_that_cannot_be_one_is_told(package: Callable[[str], None], points: str, said: str) -> None:
    package(f"[harness.models]\n{points}\n")
    with pytest.raises(InputError, match=said):
        named_models()


def test_a_judge_of_a_package_rates_and_takes_no_options(package: Callable[[str], None], tmp_path: Path) -> None:
    package("[harness.judges]\ntheirs = their_pack:Judge\nbroken = their_pack:nothing\n")
    judge = make_judge("theirs", ledger=tmp_path / "ledger.sqlite")
    assert (judge.model, judge.ask_many([("a question", None)])) == ("their-judge", ["Grade: 5"])
    with pytest.raises(SettingError, match="judge 'theirs': --judge-url would not act: it is that of their_pack:Judge"):
        make_judge("theirs", url="http://127.0.0.1:1/v1")
    with pytest.raises(SettingError, match="gives no judge"):
        make_judge("broken")
