"""The digest of a task changes with what decides its scores, and with nothing else."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks import score_digest as module
from tasks.registry import registry
from tasks.score_digest import score_digest

YAML = """\
task: colours
custom_dataset: !function tasks.documents.load
doc_to_text: "<image>{{question}}"
process_results: !function tasks.benchmarks.colours.process_results
metric_list:
  - {metric: share, aggregation: !function tasks.benchmarks.colours.share, higher_is_better: true}
metadata: {version: "1.0", description: "Which colour?", licence: MIT}
"""
CODE = """\
'''Colours.'''
import json
from pathlib import Path
from tasks.benchmarks import other
from tasks.metric import mean_of

NAMES = ("red", "green")
WORDS = Path(__file__).parent / "data" / "colours.json"

def _parse(answer: str) -> str:
    '''The first word.'''
    return next((name for name in NAMES if name in answer), other.fallback(answer))

def process_results(doc, results):
    # a comment
    return {"share": {"right": _parse(results[0]) == doc["answer"]}}

def unused():
    return 1

share = mean_of("right")
"""
OTHER = "def fallback(answer):\n    return answer[:3]\n"

Change = Callable[[Path], object]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of tasks with one benchmark; what was read of it earlier is forgotten."""
    tasks = tmp_path / "tasks"
    for name in ("benchmarks/data", "prompts"):
        (tasks / name).mkdir(parents=True)
    shutil.copy(module.FOLDER / "metric.py", tasks / "metric.py")
    (tasks / "benchmarks" / "colours.yaml").write_text(YAML)
    (tasks / "benchmarks" / "colours.py").write_text(CODE)
    (tasks / "benchmarks" / "other.py").write_text(OTHER)
    (tasks / "benchmarks" / "data" / "colours.json").write_text("[1]")
    (tasks / "prompts" / "unrelated.txt").write_text("Rate it.")
    monkeypatch.setattr(module, "FOLDER", tasks)
    return tasks


def digest(folder: Path) -> str:
    for cached in (module.score_digest, module._read_module, module._find_data_files):
        cached.cache_clear()
    try:
        return score_digest(folder / "benchmarks" / "colours.yaml")
    finally:
        for cached in (module.score_digest, module._read_module, module._find_data_files):
            cached.cache_clear()


def replaced(name: str, old: str, new: str) -> Change:
    def change(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))

    return change


@pytest.mark.parametrize(
    "change",
    (
        replaced("benchmarks/colours.py", "The first word.", "The first colour in it."),
        replaced("benchmarks/colours.py", "# a comment", "# another one"),
        replaced("benchmarks/colours.py", "(answer: str) -> str", "(answer)"),
        replaced("benchmarks/colours.py", "return 1", "return 2"),
        replaced("benchmarks/colours.py", "(doc, results):", "(\n    doc,\n    results,\n):"),
        replaced("benchmarks/colours.yaml", "licence: MIT", "licence: Apache-2.0"),
        replaced("benchmarks/colours.yaml", "tasks.documents.load", "tasks.elsewhere.load"),
        replaced("prompts/unrelated.txt", "Rate it.", "Rate this."),
    ),
)
def test_what_decides_no_score_leaves_it_as_it_is(folder: Path, change: Change) -> None:
    before = digest(folder)
    change(folder)
    assert digest(folder) == before


@pytest.mark.parametrize(
    "change",
    (
        replaced("benchmarks/colours.py", '"red", "green"', '"red", "blue"'),
        replaced("benchmarks/colours.py", '== doc["answer"]', '!= doc["answer"]'),
        replaced("benchmarks/colours.py", 'mean_of("right")', 'mean_of("wrong")'),
        replaced("benchmarks/other.py", "answer[:3]", "answer[:4]"),
        replaced("benchmarks/colours.yaml", "{{question}}", "{{question}} Answer in one word."),
        replaced("benchmarks/colours.yaml", 'version: "1.0"', 'version: "1.1"'),
    ),
)
def test_what_decides_a_score_changes_it(folder: Path, change: Change) -> None:
    before = digest(folder)
    change(folder)
    assert digest(folder) != before


def test_a_table_that_the_code_names_takes_part(folder: Path) -> None:
    replaced("benchmarks/colours.py", "for name in NAMES", "for name in (*NAMES, WORDS)")(folder)
    before = digest(folder)
    (folder / "benchmarks" / "data" / "colours.json").write_text("[2]")
    assert digest(folder) != before


def test_moved_code_has_the_same_digest(folder: Path) -> None:
    before = digest(folder)
    (folder / "scenes").mkdir()
    (folder / "benchmarks" / "colours.py").rename(folder / "scenes" / "colours.py")
    replaced("benchmarks/colours.yaml", "tasks.benchmarks.colours", "tasks.scenes.colours")(folder)
    assert digest(folder) == before


def test_every_task_has_a_digest_of_its_own() -> None:
    found = {name: score_digest(task.path) for name, task in registry().tasks.items()}
    assert len(set(found.values())) == len(found)
    assert all(len(each) == 16 and int(each, 16) >= 0 for each in found.values())
