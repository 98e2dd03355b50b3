import subprocess
import sys
from pathlib import Path

import pytest

from support.errors import AnswerFileError, TaskError, UnknownName
from tasks.benchmarks import yes_no
from tasks.registry import Published, Registry, registry
from tasks.task_yaml import load_yaml

PROBES = """
task: NAME
metadata:
  version: "1.0"
  description: Is it there?
  headline: f1
  units: {f1: "%", accuracy: "%"}
  judged: false
  official_judge: null
  cluster: image
  data: embedded
  revision: "1"
  rows: 12
  columns: [question, answer]
  answers: tasks.benchmarks.pope.official_answers
  published:
    - {model: LLaVA, source: paper, scores: {f1: 85.9}}
  licence: Apache-2.0
  citation: none
process_results: !function tasks.benchmarks.yes_no.record
metric_list:
  - {metric: f1, aggregation: !function tasks.benchmarks.yes_no.f1, higher_is_better: true}
  - {metric: accuracy, aggregation: !function tasks.benchmarks.yes_no.accuracy, higher_is_better: true}
"""


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder


def probes(name: str = "probes") -> str:
    return PROBES.replace("NAME", name)


@pytest.fixture
def three(tmp_path: Path) -> Registry:
    suite = "group: suite\ntask: [b, a]\n"
    outer = "group: everything\ntask: [suite, c]\n"
    (tmp_path / "inner").mkdir()
    write(tmp_path / "inner", c=probes("c"))
    return registry(write(tmp_path, a=probes("a"), b=probes("b"), suite=suite, outer=outer))


def test_a_task_is_read_with_all_that_describes_it(tmp_path: Path) -> None:
    spec = registry(write(tmp_path, probes=probes())).tasks["probes"]
    assert (spec.name, spec.version, spec.headline) == ("probes", "1.0", "f1")
    assert (spec.cluster, spec.data, spec.rows, spec.columns) == ("image", "embedded", 12, ("question", "answer"))
    assert (spec.judged, spec.official_judge) == (False, None)
    assert list(spec.metrics) == ["f1", "accuracy"]
    assert spec.metrics["f1"].unit == "%"
    assert spec.metrics["f1"].higher_is_better
    assert spec.metrics["f1"].aggregation == "tasks.benchmarks.yes_no.f1"
    assert spec.answers == "tasks.benchmarks.pope.official_answers"
    assert spec.process_results == "tasks.benchmarks.yes_no.record"
    assert spec.published == (Published(model="LLaVA", source="paper", scores={"f1": 85.9}),)
    assert spec.path == (tmp_path / "probes.yaml").resolve()


def test_the_metric_is_the_one_the_task_names(tmp_path: Path) -> None:
    assert registry(write(tmp_path, probes=probes())).metric("probes", "accuracy") is yes_no.accuracy


def test_a_folder_is_read_once(tmp_path: Path) -> None:
    assert registry(write(tmp_path, probes=probes())) is registry(tmp_path)


def test_suites_are_taken_apart_in_order_and_each_task_comes_once(three: Registry) -> None:
    assert [task.name for task in three.expand(["everything"])] == ["b", "a", "c"]
    assert [task.name for task in three.expand(["a", "suite", "c", "a"])] == ["a", "b", "c"]
    assert three.expand([]) == []


def test_an_unknown_name_says_what_is_known_and_what_was_meant(three: Registry) -> None:
    with pytest.raises(
        UnknownName, match=r"unknown task 'suit' \(did you mean 'suite'\?\); known: a, b, c, everything, suite"
    ):
        three.expand(["a", "suit"])
    with pytest.raises(UnknownName, match=r"unknown metric of a 'f2'.*known: accuracy, f1"):
        three.metric("a", "f2")
    with pytest.raises(UnknownName, match="unknown task 'suite'"):
        three.metric("suite", "f1")


def test_an_include_is_resolved_and_own_keys_win(tmp_path: Path) -> None:
    base = PROBES.replace("task: NAME", "output_type: generate_until")
    write(tmp_path, _base=base, child="include: _base.yaml\ntask: child\n")
    assert list(registry(tmp_path).tasks) == ["child"]


def test_later_includes_win_over_earlier_ones(tmp_path: Path) -> None:
    child = "include: [_a.yaml, _b.yaml]\ntask: x\n"
    write(tmp_path, _a=PROBES.replace("task: NAME", ""), _b="metric_list: []\n", child=child)
    with pytest.raises(TaskError, match=r"child\.yaml: metric_list: must be a list"):
        registry(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    (
        ("task: NAME", "task: [", "not YAML"),
        ("task: NAME", "output_type: generate_until", "task: missing"),
        ("task: NAME", "task: 7", "task: must be text"),
        ("task: NAME", "task: x\ninclude: nothing.yaml", "can't read .*nothing.yaml"),
        ("task: NAME", "task: x\ninclude: broken.yaml", "includes itself"),
        ("  citation: none\n", "", r"metadata\.citation: missing"),
        ("  official_judge: null\n", "", r"metadata\.official_judge: missing"),
        ('version: "1.0"', "version: 1.10", r"metadata\.version: must be text"),
        ("judged: false", 'judged: "no"', r"metadata\.judged: must be true or false"),
        ("rows: 12", "rows: many", r"metadata\.rows: must be a number of rows or null"),
        ("rows: 12", "rows: 0", r"metadata\.rows: must be a number of rows or null"),
        ("[question, answer]", "question", r"metadata\.columns: must be a list of names"),
        ("  answers: tasks.benchmarks.pope.official_answers\n", "", r"metadata\.answers: missing"),
        (
            "scores: {f1: 85.9}",
            "scores: {f2: 85.9}",
            r"metadata\.published\[0\]\.scores\.f2: no such metric; there are f1, accuracy",
        ),
        ("scores: {f1: 85.9}", "scores: {f1: high}", r"metadata\.published\[0\]\.scores\.f1: must be a number"),
        ("source: paper, ", "", r"metadata\.published\[0\]\.source: missing"),
        ("process_results: !function tasks.benchmarks.yes_no.record\n", "", "process_results: missing"),
        ("headline: f1", "headline: f2", r"metadata\.headline: 'f2' is not among the metrics f1, accuracy"),
        ('f1: "%", ', "", r"metadata\.units\.f1: missing"),
        ('f1: "%", ', 'f1: "%", f2: "%", ', r"metadata\.units\.f2: no such metric"),
        ("metadata:\n", "metadata:\n  a: b\nmetadata_: \n", r"metadata\.units: missing"),
        ("!function tasks.benchmarks.yes_no.f1", "mean", r"metric_list\[0\]\.aggregation: must name a Metric in full"),
        ("!function tasks.benchmarks.yes_no.f1", "!function [a]", "not YAML"),
        ("metric: accuracy", "metric: f1", r"metric_list\[1\]\.metric: 'f1' is there twice"),
        (", higher_is_better: true", "", r"metric_list\[0\]\.higher_is_better: missing"),
    ),
)
def test_what_is_wrong_with_a_task_is_said_with_file_and_field(
    old: str, new: str, complaint: str, tmp_path: Path
) -> None:
    assert old in PROBES
    write(tmp_path, broken=PROBES.replace(old, new))
    with pytest.raises(TaskError, match=rf"broken\.yaml: (include: )?{complaint}"):
        registry(tmp_path)


def test_a_yaml_that_is_no_mapping_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="must be a mapping, is list"):
        registry(write(tmp_path, broken="[a, b]"))


@pytest.mark.parametrize("second", (probes("a"), "group: a\ntask: [a]\n"))
def test_two_of_one_name_are_an_error_that_names_both_files(second: str, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"second\.yaml: the name 'a' is taken by .*first\.yaml"):
        registry(write(tmp_path, first=probes("a"), second=second))


def test_a_suite_may_name_only_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"suite\.yaml: task: unknown task 'probs' \(did you mean 'probes'\?\)"):
        registry(write(tmp_path, probes=probes(), suite="group: suite\ntask: [probs]\n"))


def test_a_suite_inside_itself_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="contains itself"):
        registry(write(tmp_path, x="group: x\ntask: [y]\n", y="group: y\ntask: [x]\n"))


@pytest.mark.parametrize(
    "name", ("tasks.benchmarks.yes_no.nothing", "tasks.nowhere.f1", "tasks.benchmarks.yes_no.f1_of")
)
def test_an_aggregation_that_is_no_metric_is_an_error_when_asked_for(name: str, tmp_path: Path) -> None:
    found = registry(write(tmp_path, probes=probes().replace("tasks.benchmarks.yes_no.f1", name)))
    with pytest.raises(TaskError, match=rf"probes\.yaml: metric_list: f1: aggregation {name}"):
        found.metric("probes", "f1")


def test_functions_are_imported_when_asked_for(tmp_path: Path) -> None:
    found = registry(
        write(tmp_path, probes=probes(), none=probes("none").replace("tasks.benchmarks.pope.official_answers", "null"))
    )
    assert found.process_results("probes").__name__ == yes_no.record.__name__
    with pytest.raises(AnswerFileError, match="none: answers to it come in no layout but our own"):
        found.official_answers("none")


def test_all_of_this_package_imports_without_the_heavy_libraries() -> None:
    heavy = {"torch", "transformers", "lm_eval", "datasets", "nltk", "PIL", "harness", "trainers", "leaderboards"}
    program = (
        "import sys, tasks.registry, tasks.judges.protocol\n"
        "from tasks.benchmarks import chair, mme, mmhal, pope, yes_no\n"
        f"print(sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("nested", ("[" * 8_000, "[" * 300_000, "- " * 8_000, "- " * 200_000, "{a: " * 4_000))
def test_a_yaml_that_is_nested_without_end_is_an_error_and_no_crash(nested: str, tmp_path: Path) -> None:
    path = tmp_path / "task.yaml"
    path.write_text(nested, encoding="utf-8")
    with pytest.raises(TaskError, match=r"task\.yaml"):
        load_yaml(path)
