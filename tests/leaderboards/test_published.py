import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from leaderboards.views.html_page import PageExtras, page
from leaderboards.views.markdown_report import to_csv, to_json
from leaderboards.views.published import Reference, beside, published, rows
from support.errors import BoardError
from tasks.registry import registry
from tests.leaderboards.makers import MakeEntry


def row(**changes: Any) -> Reference:
    usual: dict[str, Any] = {
        "model": "Silkie",
        "task": "mme",
        "metric": "perception",
        "value": 1539.6,
        "source": "a paper",
    }
    return Reference(**usual | changes)


def test_every_published_score_is_of_a_metric_that_is_there_and_within_its_unit() -> None:
    tasks = registry().tasks
    references = published()
    assert len(references) > 100
    for reference in references:
        unit = tasks[reference.task].metrics[reference.metric].unit
        highest = {"%": 100, "0-6": 6, "points": 2000}[unit]
        assert 0 <= reference.value <= highest, reference


def test_no_score_is_there_twice() -> None:
    keys = [(r.model, r.task, r.metric, r.source) for r in published()]
    assert len(keys) == len(set(keys))


def test_what_a_tasks_own_file_has_is_not_repeated() -> None:
    def papers(source: str) -> set[str]:
        return set(re.findall(r"\d{4}\.\d{5}", source))

    own = [
        (task.name, metric, value, row.source)
        for task in registry().tasks.values()
        for row in task.published
        for metric, value in row.scores.items()
    ]
    for reference in published():
        for task, metric, value, source in own:
            same = (task, metric, value) == (reference.task, reference.metric, reference.value)
            assert not (same and papers(source) & papers(reference.source)), reference


def test_silkies_and_povids_tables_are_there() -> None:
    found = {(r.model, r.source.partition(",")[0], f"{r.task}.{r.metric}"): r.value for r in published()}
    assert found["Silkie", "VLFeedback", "mme.cognition"] == 397.1
    assert found["Qwen-VL-Chat + DPO, GPT-4V is best", "Silkie", "mme.perception"] == 1460.9
    assert found["LLaVA-1.5-7B + POVID", "POVID", "chair.chair_s"] == 31.8


def test_references_are_shown_apart_with_their_sources(make_entry: MakeEntry) -> None:
    measured = [
        make_entry(task="mme", metric="perception", unit="points", higher_is_better=True),
        make_entry(task="mme", metric="cognition", unit="points", higher_is_better=True, headline=False),
        make_entry(),
    ]
    references = [
        row(note="mind the judge"),
        row(metric="cognition", value=397.1),
        row(model="Qwen|VL", value=1440.5, source="other"),
        row(task="pope", metric="f1"),
    ]
    lines = beside(measured, references).splitlines()
    assert lines[0] == "## Reported by others"
    assert [cell.strip() for cell in lines[4].split("|")[1:-1]] == [
        "model",
        "mme perception points ↑",
        "mme cognition points ↑",
        "protocol",
        "source",
    ]
    assert [cell.strip() for cell in lines[6].split("|")[1:-1]] == ["Silkie", "1539.6", "397.1", "—", "a paper"]
    assert r"Qwen\|VL" in lines[7]
    assert "—" in lines[7]
    assert lines[-1] == "- a paper: mind the judge"
    assert "pope" not in "\n".join(lines)
    assert "cognition" not in beside(measured, references, only_headline=True)


def test_programs_get_references_apart_from_what_was_measured(make_entry: MakeEntry) -> None:
    measured = [make_entry(task="mme", metric="perception", unit="points", higher_is_better=True), make_entry()]
    found = rows(measured, [row(model="=x", note="mind the judge"), row(task="pope", metric="f1")])
    assert found == [
        {
            **{
                "model": "=x",
                "task": "mme",
                "metric": "perception",
                "unit": "points",
                "higher_is_better": True,
                "headline": True,
            },
            **{"value": 1539.6, "protocol": "", "source": "a paper", "note": "mind the judge", "asked_otherwise": []},
        }
    ]
    lines = list(csv.DictReader(io.StringIO(to_csv(measured, published=found))))
    assert [(line["model"], line["source"], line["run"]) for line in lines] == [("base", "", "run-1")] * 2 + [
        ("'=x", "a paper", "")
    ]
    told = json.loads(to_json(measured, published=found))
    assert (len(told["entries"]), told["published"]) == (2, found)
    assert "published" not in json.loads(to_json(measured))
    assert rows(measured, [row(metric="cognition")], only_headline=True) == []


def test_nothing_is_shown_of_metrics_nobody_measured_here(make_entry: MakeEntry) -> None:
    assert beside([make_entry()], [row()]) == ""
    imported = make_entry(task="mme", metric="perception", provenance={"imported": "lm-eval"})
    assert beside([imported], [row()]) == ""


@pytest.mark.parametrize(
    ("data", "message"),
    (
        ({}, "must be a list of tables, not dict"),
        ([1], "table 0: must be a JSON object, not int"),
        (
            [{"source": "x", "rows": {"m": {"t.m": 1}}, "color": 1}],
            "table 0: unknown key 'color'; known: source, note, protocols, rows",
        ),
        ([{"rows": {"m": {"t.m": 1}}}], "table 0: source must be text, not None"),
        ([{"source": "x", "rows": {}}], r"table 0 \(x\): rows must map models"),
        ([{"source": "x", "rows": {"m": {"mme": 1}}}], "m: 'mme' must be TASK.METRIC"),
        ([{"source": "x", "rows": {"m": {"t.m": "high"}}}], "m: t.m must be a number, not 'high'"),
        ([{"source": "x", "rows": {"m": {"t.m": True}}}], "m: t.m must be a number, not True"),
        ([{"source": "x", "protocols": {"m": 1}, "rows": {"m": {"t.m": 1}}}], "protocols must map models to tasks"),
        ([{"source": "x", "protocols": {"n": {"t": "a"}}, "rows": {"m": {"t.m": 1}}}], "n: no score of 't' is in rows"),
        ([{"source": "x", "protocols": {"m": {"t": 1}}, "rows": {"m": {"t.m": 1}}}], "m: t must be a name, not 1"),
        ([{"source": "x", "note": 3, "rows": {"m": {"t.m": 1}}}], "note must be text, not 3"),
    ),
)
def test_a_bad_file_is_refused_in_one_line(tmp_path: Path, data: object, message: str) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(data))
    with pytest.raises(BoardError, match=message) as caught:
        published(path)
    assert "mine.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_or_not_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BoardError, match=r"none\.json"):
        published(tmp_path / "none.json")
    (tmp_path / "torn.json").write_text("[{")
    with pytest.raises(BoardError, match=r"torn\.json"):
        published(tmp_path / "torn.json")


def test_a_reported_row_carries_its_protocol_and_says_where_it_differs(make_entry: MakeEntry, tmp_path: Path) -> None:
    mine = tmp_path / "mine.json"
    table = {"source": "a paper", "rows": {"m": {"mme.perception": 1500.0, "mmvet.total": 30.0, "pope.f1": 85.0}}}
    mine.write_text(json.dumps([table | {"protocols": {"m": {"mme": "llava-1.5", "mmvet": "qwen-vl-chat"}}}]))
    found = published(mine)
    assert [one.protocol for one in found] == ["llava-1.5", "qwen-vl-chat", ""]
    asked = {"provenance": {"protocol": "llava-1.5 0123abcd"}}
    measured = [
        make_entry(task=task, metric=metric, unit="points", **asked)
        for task, metric in (("mme", "perception"), ("mmvet", "total"), ("pope", "f1"))
    ]
    lines = beside(measured, found).splitlines()
    cells = next([cell.strip() for cell in line.split("|")] for line in lines if re.match(r"\| m +\|", line))
    assert cells[1:-1] == ["m", "1500.0", "30.0 ≠", "85.0", "llava-1.5 (mme); qwen-vl-chat (mmvet)", "a paper"]
    assert "- ≠: mmvet was asked by qwen-vl-chat, here by llava-1.5" in lines
    said = {row["task"]: (row["protocol"], row["asked_otherwise"]) for row in rows(measured, found)}
    assert said["mme"] == ("llava-1.5", [])
    assert said["mmvet"] == ("qwen-vl-chat", ["mmvet was asked by qwen-vl-chat, here by llava-1.5"])
    assert said["pope"] == ("", [])
    (line,) = [
        row
        for row in csv.DictReader(io.StringIO(to_csv(measured, published=rows(measured, found))))
        if row["task"] == "mmvet" and row["source"]
    ]
    assert (line["protocol"], "qwen-vl-chat" in line["asked_otherwise"]) == ("qwen-vl-chat", True)
    html = page(measured, title="B", extras=PageExtras(references=found))
    assert "30.0 ≠" in html
    assert "llava-1.5 (mme); qwen-vl-chat (mmvet)" in html
    assert "mmvet was asked by qwen-vl-chat, here by llava-1.5" in html
