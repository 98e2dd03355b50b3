import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from markdown_it import MarkdownIt

from leaderboards.board.entry import Entry
from leaderboards.board.sample import Sample
from leaderboards.gate import ci_output
from leaderboards.gate.ci_output import (
    ANNOTATIONS,
    COMMENT_CHARACTERS,
    MARKER,
    SUMMARY_BYTES,
    add_summary,
    annotations,
    publish,
    to_comment,
    to_junit,
)
from leaderboards.gate.gate import GateSettings, check
from leaderboards.gate.result import GateResult
from leaderboards.gate.source import GateSource
from tasks.metric import mean_of
from tests.leaderboards.makers import MakeEntry

METRIC = mean_of("correct", scale=100)

EVIL = "x\n::set-env name=A::b\r\n##[add-mask]x%0A::error::,:`````\n</details><script>alert(1)</script> @everyone #1 http://e.org\x00\ud800\ufffe"


def gate(
    make_entry: MakeEntry,
    right: Sequence[bool],
    *,
    tasks: Sequence[str] = ("pope",),
    model: str = "ours",
    word: str = "",
    missing: Sequence[str] = (),
    require_better: Sequence[str] = (),
) -> GateResult:
    """What the gate finds where 60 answers were right and these are now, for each task."""

    def log(run: str) -> list[Sample]:
        return [
            Sample(
                run=run,
                task=task,
                id=f"{index}{word}",
                image=f"i{index}{word}",
                prompt=f"Is it?{word}",
                answer=f"{'yes' if good else 'no'}{word}",
                records={"accuracy": {"image": f"i{index}{word}", "correct": good, "category": f"c{word}"}},
                reply=f"Rated.{word}",
            )
            for task in tasks
            for index, good in enumerate([True] * 60 if run == "old" else right)
        ]

    def entry(run: str, task: str) -> Entry:
        value = 100.0 if run == "old" else 100 * sum(right) / len(right)
        usual = {"metric": "accuracy", "higher_is_better": True, "samples": 60, "low": None, "high": None}
        return make_entry(run=run, task=task, model=model, value=value, **usual)

    return check(
        GateSource(entries=[entry("old", task) for task in (*tasks, *missing)], samples=log),
        GateSource(entries=[entry("new", task) for task in tasks], samples=log),
        metrics=lambda task, name: METRIC,
        settings=GateSettings(require_better=require_better, resamples=2000),
    )


WORSE = [True] * 20 + [False] * 40
SAME = [True] * 60


def unescaped(text: str) -> str:
    """As GitHub's runner reads the data of a command."""
    return text.replace("%0D", "\r").replace("%0A", "\n").replace("%3A", ":").replace("%2C", ",").replace("%25", "%")


# -- JUnit


def test_junit_has_a_case_a_metric_with_failures_and_errors(make_entry: MakeEntry) -> None:
    suite = ElementTree.fromstring(to_junit(gate(make_entry, WORSE, missing=["mme"], require_better=["pope"])))
    assert {name: suite.get(name) for name in ("tests", "failures", "errors")} == {
        "tests": "3",
        "failures": "2",
        "errors": "1",
    }
    cases = {
        (case.get("classname"), case.get("name")): [child.tag for child in case] for case in suite.iter("testcase")
    }
    assert cases == {
        ("harness check.metrics", "ours pope accuracy"): ["failure"],
        ("harness check.claims", "ours pope accuracy"): ["failure"],
        ("harness check.not compared", "ours mme accuracy"): ["error"],
    }
    assert "significant (-66.7" in next(suite.iter("failure")).get("message", "")


def test_a_passed_gate_has_no_failure_in_junit(make_entry: MakeEntry) -> None:
    suite = ElementTree.fromstring(to_junit(gate(make_entry, SAME)))
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("1", "0", "0")
    assert not list(suite.iter("failure"))


def test_hostile_names_leave_junit_well_formed(make_entry: MakeEntry) -> None:
    text = to_junit(gate(make_entry, WORSE, model=EVIL, word=EVIL, missing=["mme"]))
    suite = ElementTree.fromstring(text.encode())
    assert suite.get("failures") == "1"
    assert next(suite.iter("testcase")).get("name", "").startswith("x ::set-env name=A::b")
    assert not list(suite.iter("script"))


# -- annotations


def test_what_is_wrong_is_annotated_and_a_pass_is_a_notice(make_entry: MakeEntry) -> None:
    found = annotations(gate(make_entry, WORSE, missing=["mme"], require_better=["pope"]))
    assert [text.partition("::ours")[0] for text in found] == [
        "::error title=Worse than the baseline",
        "::error title=Not shown to be better",
        "::error title=Not compared",
    ]
    assert annotations(gate(make_entry, SAME)) == ["::notice title=Gate passed::1 compared, 0 worse, 0 errors"]


def test_a_name_cannot_order_anything_of_the_runner(make_entry: MakeEntry) -> None:
    for text in annotations(gate(make_entry, WORSE, model=EVIL, word=EVIL, missing=["mme"])):
        assert len(text.splitlines()) == 1
        command, title, data = re.fullmatch(r"::(error) title=([^:,]*)::(.*)", text).groups()  # type: ignore[union-attr]
        assert (command, title) in (("error", "Worse than the baseline"), ("error", "Not compared"))
        assert unescaped(data).startswith("x ::set-env name=A::b ##[add-mask]x%0A::error::,:")
        assert "%250A" in data


def test_more_errors_than_github_shows_end_with_a_count(make_entry: MakeEntry) -> None:
    found = annotations(gate(make_entry, SAME, missing=[f"task-{number}" for number in range(30)]))
    assert len(found) == ANNOTATIONS
    assert found[-1] == "::error title=Gate failed::21 more: see the job summary or the report"
    assert len(annotations(gate(make_entry, SAME, missing=[f"task-{number}" for number in range(10)]))) == 10


# -- the comment


def test_the_comment_lists_what_broke_with_both_answers_and_the_judges_words(make_entry: MakeEntry) -> None:
    text = to_comment(gate(make_entry, WORSE))
    assert text.startswith(MARKER)
    assert "40 broken, 0 fixed, 0 still wrong" in text
    assert " ".join(str(index) for index in range(20, 60)) in text
    assert text.count("**broken**") == ci_output.FLIPS
    assert "before: yes [right]\n  judge: Rated.\nnow:    no [wrong]" in text
    assert "details" not in to_comment(gate(make_entry, SAME))


def test_samples_in_a_comment_stay_in_their_fences_and_call_nobody(make_entry: MakeEntry) -> None:
    text = to_comment(gate(make_entry, WORSE, model=EVIL, word=EVIL, missing=["mme"]))
    tokens = MarkdownIt("commonmark", {"linkify": False}).enable("table").parse(text)
    fences = [token.content for token in tokens if token.type == "fence"]
    assert len(fences) == 1 + ci_output.FLIPS
    assert all("</details>" in fence for fence in fences)
    blocks = [token.content for token in tokens if token.type == "html_block"]
    assert not any("<script" in block for block in blocks)
    assert [block.strip() for block in blocks].count("</details>") == 1
    assert {child.type for token in tokens for child in token.children or []} <= {
        *("text", "text_special", "strong_open", "strong_close", "softbreak")
    }
    outside = "".join(token.content for token in tokens if token.type in ("inline", "html_block"))
    assert not re.search(r"@\w|#\d|https?://", outside)
    assert not any(line.startswith(("/", "::")) for line in text.splitlines())


@pytest.mark.parametrize("characters", (COMMENT_CHARACTERS, 3_000, 700))
def test_a_comment_is_never_longer_than_allowed_and_says_what_is_missing(
    make_entry: MakeEntry, characters: int
) -> None:
    tasks = [f"task-{number}" for number in range(40)]
    text = to_comment(gate(make_entry, WORSE, tasks=tasks, word="long " * 300), characters=characters)
    assert len(text) <= characters
    assert "Gate failed" in text
    assert "no room for them here" in text or "too many to list here" in text
    assert text.count("```") % 2 == 0


# -- where GitHub runs it


def test_files_are_written_wherever_it_runs_and_annotations_only_on_github(
    make_entry: MakeEntry, tmp_path: Path
) -> None:
    result = gate(make_entry, WORSE)
    junit, comment, summary = tmp_path / "deep" / "gate.xml", tmp_path / "gate.md", tmp_path / "summary"
    assert publish(result, {"GITHUB_STEP_SUMMARY": str(summary)}, junit=junit, comment=comment) == []
    assert (junit.read_text(), comment.read_text(), summary.exists()) == (to_junit(result), to_comment(result), False)
    assert publish(result, {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(summary)}) == annotations(result)
    assert summary.read_text() == to_comment(result) + "\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "gate.md", "summary"]


@pytest.mark.parametrize(
    "taken", (0, SUMMARY_BYTES - 1_500, SUMMARY_BYTES - 900, SUMMARY_BYTES - 100, SUMMARY_BYTES - 10)
)
def test_a_summary_takes_the_room_there_is(make_entry: MakeEntry, tmp_path: Path, taken: int) -> None:
    path = tmp_path / "summary"
    path.write_text("." * taken)
    add_summary(path, gate(make_entry, WORSE))
    written = path.read_text()[taken:]
    assert path.stat().st_size <= SUMMARY_BYTES
    assert ("Gate failed" in written) == (taken <= SUMMARY_BYTES - 100)
    assert ("**broken**" in written) == (taken == 0)


def test_a_model_without_changes_in_name_only_is_named_on_both_sides(make_entry: MakeEntry) -> None:
    result = gate(make_entry, WORSE)
    (one,) = result.regressions
    renamed = replace(one, current=replace(one.current, model="tuned"))
    assert "ours -&gt; tuned pope accuracy" in to_comment(replace(result, checked=[renamed]))
