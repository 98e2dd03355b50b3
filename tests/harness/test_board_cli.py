"""What boards say, on the command line: two small models scored for real, then ranked, compared, gated, shown and
exported."""

import csv
import io
import json
import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.cli import main as cli
from leaderboards.board.board import Board
from leaderboards.board.entry import Entry

RESULTS = '{"results": {"t": {"acc,none": 0.5}}, "model_name": "m", "date": 1769900000.0}'


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "small"
    answers = str(out.parent / "answers.sqlite")
    for model in ("scenes-base", "scenes-careful"):
        command = f"eval --model {model} --tasks scenes_mme,scenes_chair --limit 24 --out {out} --answers {answers}"
        assert cli.run(command.split()) == 0
    return out.parent


def said(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert cli.run(arguments) == 0
    return capsys.readouterr().out


def test_the_board_shows_ranks_and_differences_in_every_form(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["leaderboard", str(runs), "--partial", "--headline", "--base", "scenes-base", "--ranks"]
    text = said(asked, capsys)
    assert "scenes-base (base)" in text
    assert re.search(r"#1", text)
    assert len(said([*asked, "--format", "csv"], capsys).splitlines()) >= 3
    assert json.loads(said([*asked, "--json"], capsys))["entries"][-1]["asked_otherwise"] == []


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What is said of a wrong command, in one line; nothing is on stdout."""
    capsys.readouterr()
    assert cli.run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


def put(
    folder: Path, model: str, *, task: str = "mme", metric: str = "perception", judge: str | None = None, **changes: Any
) -> None:
    """A run of one score onto the board of a run folder."""
    run = re.sub(r"\W", "_", f"{model}-{task}-{judge}")
    score = {"value": 1500.0, "low": None, "high": None, "unit": "points", "higher_is_better": True, "headline": True}
    about = {"version": "1.0", "samples": 2374, "limit": None, "created": "2026-01-31T12:00:00+00:00"}
    spent = {"seconds": 1.0, "cost": 0.0, "judge": judge, "provenance": {"data": "lmms-lab/MME@d6c9023f"}}
    facts: dict[str, Any] = score | about | spent
    entry = Entry(run=run, model=model, task=task, metric=metric, **facts | changes)
    Board(folder / "board").add([entry], [])


def test_the_gate_misses_what_weights_scored_that_are_gone_from_the_baseline(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def provenance(weights: str) -> dict[str, str]:
        return {"data": "lmms-lab/MME@d6c9023f", "weights": weights}

    put(tmp_path / "old", "m", provenance=provenance("first"), created="2026-01-01T00:00:00+00:00")
    put(tmp_path / "old", "m", task="pope", metric="accuracy", unit="%", value=80.0, provenance=provenance("second"))
    put(tmp_path / "new", "m", task="pope", metric="accuracy", unit="%", value=80.0, provenance=provenance("second"))
    boards = ["--baseline", str(tmp_path / "old"), "--board", str(tmp_path / "new")]
    assert cli.run(["check", *boards, "--tolerance", "pope.accuracy=1"]) == 1
    assert "m mme perception: the baseline's score is of weights first" in capsys.readouterr().out


@pytest.mark.parametrize("form", ([], ["--json"], ["--format", "csv"], ["--html", "page.html"], ["--output", "hub"]))
def test_a_leaderboard_of_nothing_is_a_mistake(
    runs: Path, tmp_path: Path, form: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    assert "no board in 'empty'" in refused(["leaderboard", "empty", *form], capsys)
    assert "no board in 'empty'" in refused(["leaderboard", str(runs), "empty", "--partial", *form], capsys)
    assert "no folder 'runs'" in refused(["leaderboard", *form], capsys)
    Path("runs/x/board").mkdir(parents=True)
    assert "no run on the boards in 'runs'" in refused(["leaderboard", *form], capsys)
    assert "2 runs with --limit or on partial data; --partial shows them" in refused(
        ["leaderboard", str(runs), *form], capsys
    )
    assert {path.name for path in tmp_path.iterdir()} == {"empty", "runs"}


@pytest.mark.parametrize(
    ("options", "message"),
    (
        (["--html", "x", "--json"], "--html and --json are forms of one board"),
        (["--html", "x", "--output", "hub"], "--html and --output hub are forms"),
        (["--json", "--format", "csv"], "--json and --format csv are forms"),
        (["--out", "x"], "--out is for --output only"),
        (["--output", "lm-eval", "--source-url", "https://e.org"], "--source-url is for --output hub only"),
        (["--hub-task", "mme=x"], "--hub-task is for --output hub only"),
        (["--output", "hub", "--base", "m"], "--base is not for --output"),
        (["--output", "hub", "--published"], "--published is not for --output"),
        (["--no-pictures"], "--no-pictures is for --html only"),
        (["--output", "hub", "--hub-task", "mme"], "--hub-task 'mme': must be TASK=ID or TASK=OWNER/NAME/ID"),
        (["--output", "hub", "--hub-task", "mne=x"], "did you mean 'mme'?"),
        (["--output", "hub", "--source-url", "e.org"], "must begin with https://"),
    ),
)
def test_an_option_that_would_do_nothing_is_refused(
    tmp_path: Path,
    options: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    put(Path("runs/a"), "m")
    assert message in refused(["leaderboard", *options], capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    assert [path.name for path in Path("runs").iterdir()] == ["a"]


def test_a_board_under_another_name_stands_beside_a_folder_of_boards(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path / "runs" / "a", "mine")
    put(tmp_path / "b", "baseline")
    (tmp_path / "b" / "board").rename(tmp_path / "kept")
    boards = [str(tmp_path / name) for name in ("runs", "kept", "runs/a")]
    text = said(["leaderboard", *boards, "--format", "csv"], capsys)
    assert [row["model"] for row in csv.DictReader(io.StringIO(text))] == ["mine", "baseline"]


def test_what_others_published_is_in_every_form_and_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path, "mine")
    asked = ["leaderboard", str(tmp_path), "--published"]
    text = said(asked, capsys)
    assert "## Reported by others" in text
    assert "Silkie" in text
    rows = list(csv.DictReader(io.StringIO(said([*asked, "--format", "csv"], capsys))))
    assert [row["model"] for row in rows if not row["source"]] == ["mine"]
    assert {row["task"] for row in rows} == {"mme"}
    found = json.loads(said([*asked, "--json"], capsys))
    assert [entry["model"] for entry in found["entries"]] == ["mine"]
    assert len(found["published"]) == len(rows) - 1 > 10
    assert all(row["source"] for row in found["published"])
    page = tmp_path / "page.html"
    said([*asked, "--html", str(page)], capsys)
    assert "2312.10665" in page.read_text(encoding="utf-8")
    said(["leaderboard", str(tmp_path), "--html", str(page)], capsys)
    assert "2312.10665" not in page.read_text(encoding="utf-8")
    (tmp_path / "own").mkdir()
    put(tmp_path / "own", "mine", task="scenes_chair", metric="chair_s")
    capsys.readouterr()
    assert cli.run(["leaderboard", str(tmp_path / "own"), "--published"]) == 0
    assert "nothing is known here to be published" in capsys.readouterr().err


def test_the_page_holds_pictures_and_needs_nothing_else(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said(
        ["leaderboard", str(runs), "--partial", "--base", "scenes-base", "--html", str(tmp_path / "board.html")], capsys
    )
    text = (tmp_path / "board.html").read_text(encoding="utf-8")
    assert "Content-Security-Policy" in text
    assert "scenes-careful" in text
    named = '<td class="text name" data-label="Metric">scenes_chair coverage (%)'  # it ranks no task, and has a verdict
    assert named in text
    assert not re.search(r"(?:src|href)=[\"']https?:", text)
    said(["leaderboard", str(runs), "--partial", "--no-pictures", "--html", str(tmp_path / "plain.html")], capsys)
    assert len((tmp_path / "plain.html").read_text(encoding="utf-8")) < len(text)


def test_two_models_are_compared_answer_by_answer(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(["compare", "scenes-base", "scenes-careful", "--board", str(runs), "--partial"], capsys)
    assert "## Flips" in text
    assert "## Format or ability?" in text
    assert cli.run(["compare", "scenes-base", "scenes-carefull", "--board", str(runs), "--partial"]) == 2
    assert "did you mean 'scenes-careful'?" in capsys.readouterr().err


def test_a_model_is_no_worse_than_itself_and_no_better(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    baseline = ["check", "--baseline", str(runs / "small" / "board")]
    assert cli.run([*baseline, "--partial"]) == 2  # compared with itself, it would always pass
    assert "compared with itself" in capsys.readouterr().err
    itself = ["--model", "scenes-base", "--baseline-model", "scenes-base"]
    assert "both 'scenes-base'" in refused([*baseline, "--partial", *itself], capsys)
    both = [*baseline, "--board", baseline[-1]]
    assert cli.run([*both, "--partial", "--junit", str(tmp_path / "gate.xml")]) == 0
    assert (tmp_path / "gate.xml").read_text().startswith("<?xml")
    assert cli.run([*both, "--partial", "--require-better", "scenes_mme"]) == 3
    assert cli.run(both) == 1  # all runs have a limit: nothing to compare is an error


@pytest.mark.parametrize(
    ("model", "baseline_model", "message"),
    (
        ("scenes-carefull", "scenes-base", "--model 'scenes-carefull': no such model (did you mean 'scenes-careful'?)"),
        ("scenes-careful", "scenes-bas", "--baseline-model 'scenes-bas': no such model (did you mean 'scenes-base'?)"),
    ),
)
def test_a_gate_of_a_model_that_is_not_there_is_a_mistake(
    runs: Path, model: str, baseline_model: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    named = ["--model", model, "--baseline-model", baseline_model]
    assert message in refused(["check", "--baseline", str(runs / "small" / "board"), "--partial", *named], capsys)


@pytest.mark.parametrize(
    ("command", "message"),
    (
        ("leaderboard runs --html ''", "--html '.' is a folder; give a file"),
        ("leaderboard runs --html runs", "--html 'runs' is a folder; give a file"),
        ("leaderboard runs --html file/x/y.html", "--html 'file/x/y.html': 'file' is a file, not a folder"),
        ("leaderboard runs --output hub --out file", "--out 'file' is a file; give a folder"),
        ("leaderboard file", "'file' is a file; give a board"),
        ("check --baseline runs/a --board runs/a --junit runs", "--junit 'runs' is a folder; give a file"),
        ("check --baseline runs/a --board runs/a --comment file/c.md", "'file' is a file, not a folder"),
        ("check --baseline runs/a --board runs/a --require-better", "--require-better: name the TASK"),
        (
            "check --baseline runs/a --board runs/a --tolerance mme.score=1 --tolerance mme.score=1",
            "--tolerance: mme.score is given twice",
        ),
        ("import runs", "runs: Is a directory; give a results_*.json"),
        ("import results.json --out file", "'file' is a file, not a folder"),
        ("compare '' m", "no model '' on the boards"),
    ),
)
def test_what_cannot_be_read_or_written_is_one_line_before_any_work(
    tmp_path: Path, command: str, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    put(Path("runs/a"), "m")
    Path("file").write_text("x")
    Path("results.json").write_text(RESULTS)
    assert message in refused(shlex.split(command), capsys)
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "file", "results.json"}


def test_a_place_where_no_file_can_be_is_told_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path / "runs", "m")
    told = refused(["leaderboard", str(tmp_path / "runs"), "--html", "/proc/new/x.html"], capsys)
    assert "--html '/proc/new/x.html': nothing can be written in '/proc'" in told
    told = refused(["leaderboard", str(tmp_path / "runs"), "--html", str(tmp_path / f"{'x' * 300}.html")], capsys)
    assert "xxx.html': File name too long" in told
    assert len(told) < 200
    assert "file name too long" in refused(["leaderboard", "x" * 300], capsys)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_takes_no_file_is_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path / "runs", "m")
    (tmp_path / "closed").mkdir(mode=0o555)
    asked = ["leaderboard", str(tmp_path / "runs"), "--html", str(tmp_path / "closed" / "x.html")]
    assert "nothing can be written in" in refused(asked, capsys)


def test_power_is_told_from_answers_or_supposed(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(runs)
    assert "400" in said(["power", "scenes_mme", "--board", str(runs), "--samples", "400", "--difference", "2"], capsys)
    assert cli.run(["power", "scenes_mme", "--model", "nobody", "--board", str(runs)]) == 2
    capsys.readouterr()
    assert cli.run(["power", "scenes_mme", "--board", str(runs)]) == 0  # runs with a limit are none
    out, err = capsys.readouterr()
    assert "(400 samples)" in out
    assert err.startswith("no complete run of scenes_mme with its answers on the boards under")
    found = json.loads(said(["power", "pope", "--samples", "400", "--difference", "5", "--json"], capsys))
    assert found["samples_needed"] == pytest.approx(400 * (found["detectable"] / 5) ** 2, rel=0.05)
    assert found["planned_images"] == 400
    assert "difference must be more than 0" in refused(["power", "pope", "--difference", "0", "--json"], capsys)


def test_a_panels_power_is_told_task_by_task(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = ["power", "pope", "scenes_pope", "--images", "200", "--accuracy", "80"]
    shown = said([*asked, "--per-image", "4", "--correlation", "0.5", "--tests", "6"], capsys)
    assert shown.splitlines()[2].startswith("| pope f1 %        |      200 |")
    assert "as one of 6" in shown
    assert shown.count("4 questions about each image, correlated by 0.5") == 1  # said once for both
    found = json.loads(said([*asked, "--json"], capsys))
    assert [one["tests"] for one in found.values()] == [2, 2]
    assert all(one["planned_images"] == 200 for one in found.values())


def test_every_tasks_power_is_told_or_what_is_missing_for_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.registry import registry

    monkeypatch.chdir(tmp_path)
    for name, task in registry().tasks.items():
        if task.all_metrics[task.headline].unit == "points":
            assert f"give --board with a complete run of {name}, or --metric accuracy" in refused(
                ["power", name], capsys
            )
            assert "samples needed" in said(["power", name, "--metric", "accuracy"], capsys)
        elif task.rows is None and task.data != "embedded":
            assert "give --samples" in refused(["power", name], capsys)
            assert "samples needed" in said(["power", name, "--samples", "100"], capsys)
        else:
            assert "samples needed" in said(["power", name], capsys)


@pytest.mark.parametrize(
    ("options", "message"),
    (
        (["pope", "--accuracy", "60", "--board", "."], "--accuracy and --discordance suppose answers; --board"),
        (["pope", "--discordance", "6", "--model", "m"], "give either these or those"),
        (["pope", "--accuracy", "60", "--discordance", "6"], "say one thing in two ways"),
        (["mmhal", "--accuracy", "60"], "mmhal score (0-6): --accuracy and --discordance are for shares (%) only"),
        (
            ["mme", "--discordance", "6"],
            "mme perception (points): what one answer adds to it is not known without answers",
        ),
        (["pope", "--accuracy", "100"], "accuracy must be between 0 and 100"),
        (["pope", "--accuracy", "0.85"], "--accuracy 0.85: is in %; for a share of 0.85 give 85"),
        (["pope", "--accuracy", "7"], "--accuracy 7: is in %, and 7% is less than guessing gives; else give 93"),
        (["pope", "--discordance", "0.2"], "--discordance 0.2: is in %; for a share of 0.2 give 20"),
        (["pope", "--correlation", "0.3"], "--correlation is of questions about one image: give --per-image, too"),
        (["pope", "--per-image", "0.5"], "questions of an image must be between 1 and the 9000 samples, but are 0.5"),
        (["pope", "--per-image", "6", "--correlation", "2"], "correlation must be between 0 and 1, but is 2"),
        (["pope", "--samples", "9", "--images", "9"], "--samples and --images say one thing in two ways"),
        (["pope", "amber", "--metric", "accuracy"], "--metric is of one task"),
        (["pope", "--judge-repeats", "3"], "--judge-repeats 3: what repeats of the judge differ by is not known here"),
        (["scenes", "--tests", "2"], "--tests 2: the panel alone has 4"),
    ),
)
def test_power_supposes_shares_alone(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in refused(["power", *options], capsys)


def test_results_go_out_as_lm_evals_and_come_back_marked(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = said(
        ["leaderboard", str(runs), "--partial", "--output", "lm-eval", "--out", str(tmp_path / "out")], capsys
    ).split()
    assert len(files) == 2
    said(["import", *files, "--out", str(tmp_path / "in")], capsys)
    assert "scenes-careful" in said(["leaderboard", str(tmp_path / "in"), "--partial"], capsys)


def test_what_cannot_be_exported_is_named_and_the_others_are_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    board, out = tmp_path / "run", tmp_path / "out"
    put(board, "cut", limit=8, samples=8)
    put(board, "a/b")
    put(board, "a__b")
    for judge in ("one", "two"):
        put(board, "twice", task="mmhal", metric="score", judge=judge, unit="0-6", value=2.0)
    asked = ["leaderboard", str(board), "--partial", "--out", str(out)]
    assert (
        cli.run([*asked, "--output", "hub", "--source-url", "https://example.org/board", "--hub-task", "mme=default"])
        == 1
    )
    told = capsys.readouterr()
    assert told.err == "cut: not exported: no whole score to put into a model card\n"
    files = [Path(line) for line in told.out.splitlines()]
    assert all(file.is_file() for file in files)
    assert len({file.relative_to(out).parts[0] for file in files}) == 3
    (result,) = yaml.safe_load(next(file for file in files if file.name == "mme.yaml").read_text())
    assert result["source"] == {"url": "https://example.org/board"}
    assert result["dataset"] == {"id": "lmms-lab/MME", "task_id": "default", "revision": "d6c9023f"}
    assert cli.run([*asked, "--output", "lm-eval"]) == 1
    told = capsys.readouterr()
    assert told.err.startswith("twice: not exported: mmhal: one version, judge and number a metric")
    assert len(told.out.splitlines()) == 3
    only = tmp_path / "only"
    put(only, "cut", limit=8, samples=8)
    assert cli.run(["leaderboard", str(only), "--partial", "--output", "hub", "--out", str(tmp_path / "none")]) == 1
    assert not (tmp_path / "none").exists()
    assert cli.run(["leaderboard", str(only), "--partial", "--output", "lm-eval", "--out", str(tmp_path / "all")]) == 0


def test_a_file_that_is_no_result_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.json").write_text("[]")
    (tmp_path / "good.json").write_text(RESULTS)
    both = [str(tmp_path / "good.json"), str(tmp_path / "x.json")]
    assert "x.json" in refused(["import", *both, "--out", str(tmp_path / "out")], capsys)
    assert not (tmp_path / "out").exists()  # nor is the good one on the board by halves


def test_names_give_no_orders_to_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "\x1b[2J\u202em\nharness: all is well"
    scores = {hostile: {"acc,none": 0.5, "bad,none": hostile}}
    results = {"results": scores, "model_name": hostile, "date": 1769900000.0}
    (tmp_path / "x.json").write_text(json.dumps(results))
    assert cli.run(["import", str(tmp_path / "x.json"), "--out", str(tmp_path / "run")]) == 0
    for form in ([], ["--format", "csv"], ["--output", "lm-eval", "--out", str(tmp_path / "out")]):
        assert cli.run(["leaderboard", str(tmp_path / "run"), *form]) == 0
    said = "".join(capsys.readouterr())
    assert not re.search("[\x1b\u202e]|^harness: all is well", said, re.MULTILINE)
