"""`import harness`: fast, lazy, documented with examples that run."""

import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import harness
from support.errors import InputError, UnknownName
from tasks.judges.protocol import GREEDY

DOCS = Path(__file__).resolve().parents[2] / "docs" / "python.md"


def test_the_import_is_fast_and_heavy_libraries_stay_out() -> None:
    code = "import harness, sys; harness.__version__; print(sorted(set(sys.modules) & set(sys.argv[1:])))"
    heavy = ["torch", "lm_eval", "transformers", "pandas", "numpy", "typer", "rich"]
    started = time.process_time()
    done = subprocess.run([sys.executable, "-X", "importtime", "-c", code, *heavy], capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
    spent = re.findall(r"\| +(\d+) \| harness$", done.stderr, flags=re.MULTILINE)
    assert int(spent[0]) < 100_000, "microseconds"
    assert time.process_time() - started < 0.15


def test_every_public_name_is_there_and_documented() -> None:
    assert sorted(dir(harness)) == sorted(harness.__all__)
    for name in harness.__all__:
        assert getattr(harness, name).__doc__, name
    with pytest.raises(AttributeError, match="has no attribute 'evalute'"):
        harness.evalute  # noqa: B018


def test_the_examples_of_the_documentation_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = re.sub(r"<!-- not run.*?-->\n```python\n.*?```", "", DOCS.read_text(encoding="utf-8"), flags=re.DOTALL)
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) >= 7
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)
    first = names["result"]
    # A loaded model answers as its folder does.
    assert first["scenes_pope.accuracy"] == names["mine"]["scenes_pope.accuracy"] is not None
    assert set(names["table"]["task"]) == {"scenes_pope"}
    assert len(names["answers"]) == 8
    assert names["scored"].metrics["chair_s"] is not None
    for shown in (first, names["scored"], names["changed"], names["gate"]):
        assert shown._repr_markdown_().strip()
    with pytest.raises(UnknownName, match="did you mean 'scenes_pope'"):
        first["scenes_pop"]


class Praise:
    """A judge that likes everything."""

    model = "praise"

    def ask(self, prompt: str, image: Any = None) -> str:
        return self.ask_many([(prompt, image)])[0] or ""

    def ask_many(self, questions: Any, sampling: Any = GREEDY, *, label: str = "", repeat: int = 0) -> list[str | None]:
        return ["Rating: 6" for _ in questions]


YAML = """
include: {included}
task: {name}
"""


def test_tasks_may_be_files_and_judges_objects(tmp_path: Path) -> None:
    original = harness.evaluate("scenes-base", "scenes_mmhal", judge=Praise(), limit=2)
    assert {entry.judge for entry in original.entries} == {"praise"}
    assert original["scenes_mmhal.score"] == 6
    from tasks.registry import registry

    path = tmp_path / "mine.yaml"
    path.write_text(YAML.format(included=registry().task("scenes_pope").path, name="my_pope"), encoding="utf-8")
    found = harness.evaluate("scenes-base", path, limit=4)
    assert found["my_pope.accuracy"] == 75  # of the four that are drawn


def test_a_mistake_is_an_error_of_the_input() -> None:
    with pytest.raises(UnknownName, match="did you mean 'scenes_pope'"):
        harness.evaluate("scenes-base", "scenes_pop")
    with pytest.raises(InputError, match="limit = 0: must be at least 1"):
        harness.evaluate("scenes-base", "scenes_pope", limit=0)
    with pytest.raises(InputError, match="no model 'a' on the boards"):
        harness.compare("a", "b")
