"""The gate's action and the workflow that users copy: their own commands, run by a shell as GitHub runs them, on boards
as a repository keeps them."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from leaderboards.board.board import Board
from leaderboards.board.entry import Entry
from leaderboards.board.sample import Sample
from leaderboards.gate.ci_output import MARKER
from tasks.benchmarks.pope import SPLITS
from tasks.registry import registry

ROOT = Path(__file__).resolve().parents[1]
TASK = "scenes_pope"

GH = """#!/bin/sh
echo "$@" >> gh.log
case "$*" in
  *--paginate*) cat comments.txt;;
  *@gate.md*) cp gate.md posted.md;;
esac
"""


def load(name: str) -> dict[Any, Any]:
    loaded: dict[Any, Any] = yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))
    return loaded


ACTION, WORKFLOW = load("action.yml"), load(".github/workflows/gate.yml")
STEPS = WORKFLOW["jobs"]["gate"]["steps"]
GIVEN: dict[str, str] = next(one for one in STEPS if one.get("name") == "Gate")["with"]


def fill_in(value: str, **given: str) -> str:
    """A step's environment variable, with the inputs that the workflow gives and the action's defaults."""
    for name, declared in ACTION["inputs"].items():
        value = value.replace(f"${{{{ inputs.{name} }}}}", {**GIVEN, **given}.get(name, declared.get("default", "")))
    return value


def keep(folder: Path, run: str, right: Sequence[bool]) -> None:
    """A board with one run of yes/no answers, by the rules of the task as they are now."""
    spec = registry().task(TASK)
    samples, headline = [], spec.headline
    for index, is_right in enumerate(right):
        truth = "yes" if index % 2 else "no"
        said = truth if is_right else {"yes": "no", "no": "yes"}[truth]
        record = {
            "image": f"picture-{index}",
            "category": SPLITS[index % 3],
            "predicted": said,
            "truth": truth,
            "correct": is_right,
        }
        samples.append(
            Sample(
                run=run,
                task=TASK,
                id=str(index),
                image=f"picture-{index}",
                prompt="is there a ring in the image?",
                answer=said,
                records=dict.fromkeys(spec.metrics, record),
                reply=None,
            )
        )
    value = registry().metric(TASK, headline)([sample.records[headline] for sample in samples])
    entry = Entry(
        run=run,
        model="ours",
        task=TASK,
        version=spec.version,
        metric=headline,
        value=value,
        unit=spec.metrics[headline].unit,
        higher_is_better=spec.metrics[headline].higher_is_better,
        headline=True,
        samples=len(samples),
        low=None,
        high=None,
        limit=None,
        judge=None,
        seconds=1.0,
        cost=0.0,
        created="2026-01-31T12:00:00+00:00",
        provenance={},
    )
    Board(folder).add([entry], samples)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A checkout with a baseline; `harness` and `gh` are on its PATH."""
    programs = tmp_path / "bin"
    programs.mkdir()
    code = "import sys; from harness.cli.main import main; main()"
    (programs / "harness").write_text(f"#!/bin/sh\nexec {sys.executable} -c '{code}' \"$@\"\n")
    (programs / "gh").write_text(GH)
    for program in programs.iterdir():
        program.chmod(0o755)
    (tmp_path / "comments.txt").touch()
    keep(tmp_path / "merged" / "boards" / "baseline", "before", [True] * 70 + [False] * 10)
    return tmp_path


def run_step(name: str, repository: Path, **given: str) -> subprocess.CompletedProcess[str]:
    """As GitHub does: bash that ends at the first failure, with the step's environment."""
    step = next(one for one in ACTION["runs"]["steps"] if one.get("name") == name)
    environ = {**os.environ, "PATH": f"{repository / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    environ |= {key: fill_in(value, **given) for key, value in step["env"].items()}
    environ |= {
        "GITHUB_ACTIONS": "true",
        "GITHUB_STEP_SUMMARY": str(repository / "summary.md"),
        "REPOSITORY": "me/models",
        "NUMBER": "7",
    }
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
        cwd=repository,
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_worse_board_fails_the_job_and_says_so_everywhere(repository: Path) -> None:
    keep(repository / "boards" / "candidate", "after", [True] * 30 + [False] * 50)
    done = run_step("Gate", repository)
    assert done.returncode == 3, done.stderr
    assert "**Gate failed**: 1 compared, 1 worse, 0 errors." in done.stdout
    assert f"::error title=Worse than the baseline::ours {TASK}" in done.stderr
    suite = ElementTree.parse(repository / "gate.xml").getroot()
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("1", "1", "0")
    comment = (repository / "gate.md").read_text()
    assert comment.startswith(MARKER)
    assert "40 broken, 0 fixed, 10 still wrong" in comment
    assert (repository / "summary.md").read_text().strip() == comment.strip()


def test_an_equal_board_passes(repository: Path) -> None:
    keep(repository / "boards" / "candidate", "after", [True] * 70 + [False] * 10)
    done = run_step("Gate", repository)
    assert done.returncode == 0, done.stderr
    assert "::notice title=Gate passed::1 compared, 0 worse, 0 errors" in done.stderr


def test_a_board_that_lacks_the_task_fails_the_job(repository: Path) -> None:
    (repository / "boards" / "candidate").mkdir(parents=True)
    keep(repository / "boards" / "candidate" / "board", "after", [True] * 79 + [False])
    renamed = next((repository / "boards" / "candidate" / "board").glob("*.json"))
    renamed.write_text(renamed.read_text().replace(f'"task": "{TASK}"', '"task": "scenes_mme"'))
    done = run_step("Gate", repository)
    assert done.returncode == 1, done.stderr
    assert f"::error title=Not compared::ours {TASK}" in done.stderr


def test_the_baseline_is_the_merged_one_whatever_the_pull_request_makes_of_its_own(repository: Path) -> None:
    checkouts = [one["with"] for one in STEPS if one.get("uses", "").startswith("actions/checkout@")]
    merged = next(one for one in checkouts if "ref" in one)
    assert merged["ref"] == "${{ github.event.pull_request.base.sha }}"
    assert Path(GIVEN["baseline"]).is_relative_to(merged["path"])
    lowered = [True] * 30 + [False] * 50
    keep(repository / "boards" / "baseline", "lowered", lowered)
    keep(repository / "boards" / "candidate", "after", lowered)
    assert run_step("Gate", repository).returncode == 3


@pytest.mark.parametrize(
    ("there", "wanted"), (("", "--method POST repos/me/models/issues/7/comments"), ("12\n34\n", "comments/12 "))
)
def test_the_comment_is_written_once_and_then_replaced(repository: Path, there: str, wanted: str) -> None:
    (repository / "gate.md").write_text(f"{MARKER}\nfound")
    (repository / "comments.txt").write_text(there)
    done = run_step("Comment", repository)
    assert done.returncode == 0, done.stderr
    asked = (repository / "gh.log").read_text().splitlines()
    assert wanted in asked[-1]
    assert MARKER in asked[0]
    assert (repository / "posted.md").read_text() == f"{MARKER}\nfound"


def test_what_must_be_better_and_what_is_tolerated_reach_the_gate(repository: Path) -> None:
    keep(repository / "boards" / "candidate", "after", [True] * 70 + [False] * 10)
    done = run_step("Gate", repository, **{"require-better": TASK, "tolerance": f"{TASK}.f1=20 {TASK}.f1=30"})
    assert done.returncode == 2, done.stderr
    assert f"{TASK}.f1" in done.stderr
    done = run_step("Gate", repository, **{"require-better": f"{TASK} {TASK}.f1"})
    assert done.returncode == 3, done.stderr
    assert run_step("Gate", repository, tolerance=f"{TASK}.f1=20").returncode == 0


def test_the_workflow_gives_inputs_that_the_action_has() -> None:
    assert set(GIVEN) <= set(ACTION["inputs"])
    assert {name for name, one in ACTION["inputs"].items() if one.get("required")} <= set(GIVEN)
    assert len(ACTION["inputs"]) == 5


def test_nothing_of_an_event_is_pasted_into_a_command() -> None:
    commands = [one["run"] for one in [*ACTION["runs"]["steps"], *STEPS] if "run" in one]
    assert len(commands) == 3
    assert not any("${{" in command for command in commands)
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert set(WORKFLOW[True]) == {"pull_request"}  # YAML 1.1 reads the key "on" as true
