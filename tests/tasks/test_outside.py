"""Tasks that are not in this package: found, checked, and known by the code that scores them."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.cli.application import run
from support.errors import SettingError, TaskError
from tasks import outside
from tasks.registry import registry
from tasks.score_digest import score_digest

YAML = """\
task: NAME
doc_to_text: "<image>{{question}}"
process_results: !function NAME_rule.process_results
metric_list:
  - {metric: share, aggregation: !function NAME_rule.share, higher_is_better: true}
metadata:
  {version: "1", description: 'Which colour?', headline: share, units: {share: "%"}, judged: false,
  official_judge: null, cluster: image,
  data: NAME, revision: "1", rows: null, columns: [question, answer], answers: null, published: [],
  licence: CC0, citation: none}
"""
RULE = """\
import NAME_words
from tasks.metric import mean_of
from tasks.benchmarks.yes_no import record

TABLE = "words.txt"
share = mean_of("right", scale=100)

def process_results(doc, results):
    return {"share": {"image": doc["image"], "right": NAME_words.read(results[0]) == doc["answer"]}}
"""
WORDS = "def read(answer):\n    return answer.strip()\n"

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Writes a folder with a task of its own."""
    path, modules = list(sys.path), set(sys.modules)

    def write(name: str, folder: str = "mine", **changes: str) -> Path:
        root = tmp_path / folder
        root.mkdir(exist_ok=True)
        files = {f"{name}.yaml": YAML, f"{name}_rule.py": RULE, f"{name}_words.py": WORDS, "words.txt": "red"}
        for file, text in files.items():
            (root / file).write_text(text.replace("NAME", name))
        return root

    yield write
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def test_a_folder_that_is_named_has_tasks_beside_ours_whose_code_is_run(make: Make) -> None:
    outside.include(make("hues_a"))
    assert "hues_a_rule" not in sys.modules
    assert {"hues_a", "pope"} <= registry().tasks.keys()
    record = registry().process_results("hues_a")({"image": "1", "answer": "red"}, [" red "])["share"]
    assert registry().metric("hues_a", "share")([record]) == 100.0


def test_a_suite_from_outside_may_have_our_tasks_too(make: Make) -> None:
    folder = make("hues_b")
    (folder / "suite.yaml").write_text("group: mixed\ntask: [hues_b, pope]\n")
    outside.include(folder)
    assert [task.name for task in registry().expand(["mixed"])] == ["hues_b", "pope"]


@pytest.mark.parametrize(
    ("file", "text", "counts"),
    (
        ("hues_c_words.py", WORDS.replace("strip()", "lower()"), True),
        ("hues_c_rule.py", RULE.replace("NAME", "hues_c").replace("== doc", "!= doc"), True),
        ("words.txt", "green", True),
        ("hues_c_words.py", f"# why\n{WORDS}", False),
        ("unused.py", "X = 1", False),
    ),
)
def test_the_digest_has_all_code_and_files_that_score_it_and_no_comments(
    make: Make, file: str, text: str, counts: bool
) -> None:
    folder = make("hues_c")
    outside.include(folder)
    path = registry().task("hues_c").path
    before = score_digest(path)
    (folder / file).write_text(text)
    score_digest.cache_clear()
    assert (score_digest(path) != before) is counts


def test_our_code_that_a_module_imports_takes_part(make: Make) -> None:
    folder = make("hues_d")
    outside.include(folder)
    path, rule = registry().task("hues_d").path, folder / "hues_d_rule.py"
    before = score_digest(path)
    rule.write_text(rule.read_text().replace("yes_no import record", "mme import parse as record"))
    score_digest.cache_clear()
    assert score_digest(path) != before


def test_names_that_are_taken_are_refused(make: Make) -> None:
    folder = make("hues_e")
    yaml = folder / "hues_e.yaml"
    outside.include(folder)
    yaml.write_text(YAML.replace("task: NAME", "task: pope").replace("NAME", "hues_e"))
    with pytest.raises(TaskError, match=r"hues_e\.yaml: the name 'pope' is taken by .*pope\.yaml"):
        registry()
    yaml.write_text(YAML.replace("NAME_rule", "json").replace("NAME", "hues_e"))
    (folder / "json.py").write_text(RULE)
    with pytest.raises(TaskError, match=r"json\.py: the module name 'json' is taken by .*; rename it"):
        registry()


def test_two_folders_with_a_module_of_one_name_are_refused(make: Make) -> None:
    outside.include(make("hues_f"))
    other = make("hues_f", folder="other")
    (other / "hues_f.yaml").write_text(YAML.replace("task: NAME", "task: hues_g").replace("NAME", "hues_f"))
    outside.include(other)
    with pytest.raises(TaskError, match=r"the module name 'hues_f_rule' is taken by .*mine"):
        registry()


def test_a_folder_that_has_no_task_is_refused(make: Make, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"--include-path .*nowhere is no folder"):
        outside.include(tmp_path / "nowhere")
    outside.include(tmp_path)
    with pytest.raises(TaskError, match="no YAML file of a task in it"):
        registry()


def test_a_package_names_the_one_with_its_tasks(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = make("hues_h", folder="hues_pack")
    (package / "__init__.py").write_text("")
    for file in ("hues_h.yaml", "hues_h_rule.py"):
        text = (package / file).read_text()
        (package / file).write_text(
            text.replace("hues_h_rule", "hues_pack.hues_h_rule").replace("import hues", "from . import hues")
        )
    about = tmp_path / "hues_pack-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Name: hues-pack\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[harness.tasks]\nhues = hues_pack\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    outside._installed.cache_clear()
    outside._find_places.cache_clear()
    try:
        assert "hues_pack" not in sys.modules
        spec = registry().task("hues_h")
        before = score_digest(spec.path)
        record = registry().process_results("hues_h")({"image": "1", "answer": "red"}, ["red"])["share"]
        assert record["right"]
        (package / "hues_h_words.py").write_text(WORDS.replace("strip", "lower"))
        score_digest.cache_clear()
        assert score_digest(spec.path) != before
    finally:
        outside._installed.cache_clear()
        outside._find_places.cache_clear()


def test_the_option_is_taken_by_commands_that_name_tasks(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make("hues_i")
    assert run(["tasks", "show", "hues_i", "--include-path", str(folder)]) == 0
    assert "Which colour?" in capsys.readouterr().out
    assert os.environ[outside.VARIABLE] == str(folder)
    assert run(["tasks", "show", "hues_i", "--include-path", str(folder / "none")]) == 2
    assert "is no folder" in capsys.readouterr().err
