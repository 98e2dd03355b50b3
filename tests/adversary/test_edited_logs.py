"""Edited boards: whoever edits one makes value, interval and digest fit, and yet no gate passes by it."""

import hashlib
import json
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from harness.evaluation.check_boards import check_boards
from harness.evaluation.entries import Run, entries_of, samples_of
from harness.evaluation.eval_settings import EvalSettings
from harness.evaluation.generate import Generated
from harness.evaluation.rescore import make_documents
from harness.evaluation.scoring import Scored, score_answers
from leaderboards.board.board import Board
from leaderboards.board.entry import Entry, to_json
from leaderboards.board.sample import JudgeRepeat, Sample, repeats_of, to_parquet
from leaderboards.gate.result import GateResult
from leaderboards.statistics.verdict import interval_repeats
from tasks.answer import Answer
from tasks.judges.protocol import GREEDY, JudgeSession, Sampling, ThreadedJudge
from tasks.registry import registry
from tasks.scenes.judge import ScenesJudge

Log = list[Sample]
Change = Callable[[Log], Log]
TASKS = ("scenes_pope", "scenes_mme", "scenes_chair", "scenes_mmhal", "mmhal")
TYPES = ("attribute", "adversarial", "comparison", "counting", "relation", "environment", "holistic", "other")
MMHAL = [
    {"id": str(n), "image": f"picture-{n}", "question": "What is it?", "gt_answer": "a dog", "image_content": ["Dog"]}
    | {"question_type": TYPES[n % 8]}
    for n in range(24)
]


class Hasher(ThreadedJudge):
    """Rates by the prompt alone."""

    model = "hasher"

    def __init__(self, turn: int = 0) -> None:
        self.turn = turn

    def ask(self, prompt: str, image: Any = None, sampling: Sampling = GREEDY) -> str:
        return f"Reasons.\nRating: {(sum(map(ord, prompt)) + self.turn) % 7}"


def answers_to(task: str, docs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Mostly right, some wrong, some that no rule reads."""
    found: list[str] = []
    for number, doc in enumerate(docs):
        if task == "scenes_chair":
            found.append(Answer(f"There is a {' and a '.join(doc['objects'])}." + " A red circle." * (number % 5 == 0)))
        elif task in ("scenes_pope", "scenes_mme"):
            other = "no" if doc["answer"] == "yes" else "yes"
            right = doc["answer"] if number % 7 else other
            found.append(Answer("perhaps" if number % 31 == 0 else right, choices={"yes": -0.2 * number, "no": -1.0}))
        else:
            found.append(Answer(f"{doc.get('answer', 'a dog')} {'and more' * (number % 3)}"))
    return found


def score(task: str) -> tuple[Scored, list[Generated], str | None]:
    spec = registry().task(task)
    docs = list(make_documents(task, None).values())[::6] or MMHAL
    answers = answers_to(task, docs)
    given = [
        Generated(doc=doc, prompt=f"Q{number}", answer=answer, image_digest=None)
        for number, (doc, answer) in enumerate(zip(docs, answers, strict=True))
    ]
    if not spec.judged:
        return score_answers(spec, docs, answers, None), given, None
    if task == "scenes_mmhal":
        return score_answers(spec, docs, answers, JudgeSession(judge=ScenesJudge(), label=task)), given, "scenes"
    turns = [score_answers(spec, docs, answers, JudgeSession(judge=Hasher(turn), label=task)) for turn in range(3)]
    return replace(turns[0], rounds=[each.rounds[0] for each in turns]), given, Hasher.model


Boards = Callable[[str], Path]


@pytest.fixture(scope="session")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Boards:
    """Makes a board with one run of a task."""
    folder = tmp_path_factory.mktemp("measured")

    @cache
    def board_of(task: str) -> Path:
        facts = {"weights": "12ab"}
        run = Run(run="base-1", model="base", limit=None, created="2026-01-31T12:00:00+00:00", provenance=facts)
        scored, given, judge = score(task)
        facts = EvalSettings().facts_of_task(scored.task)
        entries = list(entries_of(scored, run, judge=judge, seconds=1.0, cost=0.0, facts=facts))
        Board(folder / task).add(entries, samples_of(scored, given, run.run))
        return folder / task

    return board_of


def own_records(samples: Log, entry: Entry) -> list[list[Mapping[str, Any]]]:
    log = {str(number): sample for number, sample in enumerate(samples)}
    return [[s.records[entry.metric] for s in own.values() if entry.metric in s.records] for own in repeats_of(log)]


def forged(entry: Entry, samples: Log) -> Entry:
    """The entry as the edited log gives it."""
    records = [list(own) for own in own_records(samples, entry) if own]
    if not records:
        return entry
    metric = registry().metric(entry.task, entry.metric)
    values = [float(metric(own)) for own in records]
    low, high = interval_repeats(records, metric)
    return replace(entry, value=sum(values) / len(values), low=low, high=high)


def write(folder: Path, entries: Sequence[Entry], samples: Log, log: bytes | None = None) -> None:
    log = log or to_parquet(samples)
    (folder / "base-1.samples.parquet").write_bytes(log)
    digest = hashlib.sha256(log).hexdigest()
    document = {"schema": 1, "run": "base-1", "samples": digest, "entries": [to_json(entry) for entry in entries]}
    (folder / "base-1.json").write_text(json.dumps(document), encoding="utf-8")


def gate_on(board: Path, folder: Path, change: Change, **edits: Any) -> GateResult:
    """What the gate says of a board with this change of its samples, and with edits of its headline's entry."""
    shutil.copytree(board, folder)
    changed = change(Board(board).samples("base-1"))
    entries = [replace(forged(each, changed), **edits) if each.headline else each for each in Board(board).entries()]
    write(folder, entries, changed)
    return check_boards(board, folder)


def edit(number: int, **changes: Any) -> Change:
    return lambda log: [replace(one, **changes) if at == number else one for at, one in enumerate(log)]


def edit_records(number: int, **fields: Any) -> Change:
    """Fields of all records of one sample."""

    def change(log: Log) -> Log:
        one = log[number]
        return edit(number, records={name: {**record, **fields} for name, record in one.records.items()})(log)

    return change


def edit_gold(number: int, **fields: Any) -> Change:
    """The right answer, in the log's document and in its records."""

    def change(log: Log) -> Log:
        document = json.dumps({**json.loads(log[number].document or "{}"), **fields})
        log = edit(number, document=document)(log)
        if "answer" not in fields:
            return edit_records(number, type=fields["question_type"])(log)
        said = log[number].records["f1"].get("predicted")
        return edit_records(number, truth=fields["answer"], correct=said == fields["answer"])(log)

    return change


def edit_repeat(log: Log) -> Log:
    first, *others = log[3].repeats
    records = {name: {**record, "rating": 6} for name, record in first.records.items()}
    return edit(3, repeats=(JudgeRepeat(records=records, reply=first.reply), *others))(log)


def drop_documents(change: Change) -> Change:
    return lambda log: [replace(one, document=None) for one in change(log)]


EDITS: tuple[tuple[str, str, Change, str], ...] = (
    ("a count", "scenes_chair", edit_records(0, hallucinated=0), "chair_s.hallucinated is 0 in its log, 1 by its"),
    ("what was read", "scenes_pope", edit_records(7, predicted="yes", correct=True), "f1."),
    ("an answer", "scenes_pope", edit(5, answer="perhaps"), "predicted"),
    ("an answer to the scenes judge", "scenes_mmhal", edit(0, answer="A sign."), "score.rating is 6 in its log, "),
    ("an answer that is failed now", "scenes_mme", edit(5, answer=None), "has a record in its log, none by its answer"),
    ("no record any more", "scenes_mme", edit(5, records={}), "has no record in its log, one by its answer"),
    ("a right answer", "scenes_pope", edit_gold(7, answer="no"), 'f1.truth is "no" in its log, "yes" by its answer'),
    ("a right answer of data on disk", "mmhal", edit_gold(4, question_type="other"), "score.type is"),
    ("a rating", "mmhal", edit_records(3, rating=6), "score.rating is 6 in its log, "),
    ("a reply", "mmhal", edit(3, reply="Rating: 6"), "score.rating is "),
    ("a reply of the scenes judge", "scenes_mmhal", edit(0, reply="Fine.\nRating: 1"), "reply is"),
    ("a repeat", "mmhal", edit_repeat, "(repeat 2): score.rating is 6 in its log, "),
    ("documents left out", "mmhal", drop_documents(edit_records(3, rating=6)), "score.rating is 6 in its log, "),
    ("a row left out", "scenes_pope", lambda log: log[1:], "its log has"),
    ("a row twice", "scenes_pope", lambda log: [log[1], *log[1:]], "logs a sample of scenes_pope twice"),
    ("two rows' names", "scenes_pope", lambda log: edit(0, id=log[9].id)(edit(9, id=log[0].id)(log)), "was asked"),
    ("a prompt", "scenes_pope", edit(0, prompt="Q!"), "was asked"),
)


@pytest.mark.parametrize(("task", "change", "words"), [row[1:] for row in EDITS], ids=[row[0] for row in EDITS])
def test_an_edited_log_never_passes_though_all_numbers_fit_it(
    task: str, change: Change, words: str, measured: Boards, tmp_path: Path
) -> None:
    result = gate_on(measured(task), tmp_path / "board", change)
    assert not result.passed
    assert words in result.errors[0]


@pytest.mark.parametrize(
    ("edits", "words"),
    (
        ({"value": 99.0}, "its value is 99"),
        ({"low": 0.0}, "low of its interval is 0.0, its log gives "),
        ({"high": 100.0}, "high of its interval is 100.0, its log gives "),
        ({"low": None, "high": None}, "low of its interval is —"),
        ({"unparsed": 2}, "unparsed is 2, its log gives 0"),
        ({"empty": 1}, "empty is 1, its log gives 0"),
        ({"guards": {"coverage": 99.0}}, "its coverage is 99, but its log gives none"),
        ({"failed": 1}, "were scored, now only"),
        ({"samples": 12}, "samples was"),
    ),
)
def test_an_edited_entry_never_passes(edits: dict[str, Any], words: str, measured: Boards, tmp_path: Path) -> None:
    result = gate_on(measured("scenes_pope"), tmp_path / "board", lambda log: log, **edits)
    assert not result.passed
    assert words in result.errors[0]


def test_the_first_differing_sample_is_named_with_field_and_both_values(measured: Boards, tmp_path: Path) -> None:
    board = measured("scenes_pope")
    name = Board(board).samples("base-1")[21].id
    both: Change = lambda log: edit_records(42, correct=True)(edit_records(21, correct=True)(log))  # noqa: E731
    (error, _) = gate_on(board, tmp_path / "board", both).errors
    assert error == (
        f"base scenes_pope f1: run base-1: sample {name!r}: f1.correct is true in its log, false by its answer: "
        "it was edited, or other code read it: score it anew"
    )


@pytest.mark.parametrize("task", TASKS)
def test_any_field_of_any_record_that_is_changed_is_found(task: str, measured: Boards, tmp_path: Path) -> None:
    """12 random edits, each of one field of one sample."""
    rng, log = random.Random(task), Board(measured(task)).samples("base-1")
    for trial in range(12):
        number = rng.randrange(len(log))
        record = next(iter(log[number].records.values()))
        field = rng.choice([name for name in record if name != "image"])
        value = record[field]
        other = not value if isinstance(value, bool) else value + 1 if isinstance(value, int | float) else "changed"
        result = gate_on(measured(task), tmp_path / str(trial), edit_records(number, **{field: other}))
        assert any(log[number].id in error for error in result.errors), (field, result.errors)


@pytest.mark.parametrize("task", TASKS)
def test_the_same_log_passes_in_any_order_and_by_any_writer(task: str, measured: Boards, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    board, folder = measured(task), tmp_path / "written"
    result = gate_on(board, tmp_path / "reversed", lambda log: log[::-1])
    assert (result.passed, result.notes) == (True, []), result.errors
    shutil.copytree(board, folder)
    table = pq.read_table(folder / "base-1.samples.parquet")
    large = [field.with_type(pa.large_string()) if pa.types.is_string(field.type) else field for field in table.schema]
    sink = pa.BufferOutputStream()
    pq.write_table(table.cast(pa.schema(large)), sink, compression="snappy", row_group_size=10)
    write(folder, Board(board).entries(), [], log=bytes(sink.getvalue()))
    result = check_boards(board, folder)
    assert (result.passed, result.notes) == (True, [])


def keep_without_documents(board: Path, folder: Path, code: str | None = None) -> Path:
    """The board as earlier versions kept it, or as other code of the task scored it."""
    shutil.copytree(board, folder)
    entries = Board(board).entries()
    if code is not None:
        entries = [replace(entry, provenance={**entry.provenance, "task": code}) for entry in entries]
    write(folder, entries, [replace(sample, document=None) for sample in Board(board).samples("base-1")])
    return folder


def test_logs_of_earlier_versions_and_of_other_code_are_believed_and_that_is_told(
    measured: Boards, tmp_path: Path
) -> None:
    board = measured("mmhal")
    earlier = [keep_without_documents(board, tmp_path / name) for name in "ab"]
    result = check_boards(earlier[0], earlier[1])
    assert result.passed
    assert result.notes == [
        "run base-1: records of mmhal are taken from its log: it keeps no documents (logs of earlier versions don't)"
    ]
    assert check_boards(earlier[0], board).notes == []  # the documents of the other side are enough
    embedded = [keep_without_documents(measured("scenes_pope"), tmp_path / name) for name in "cd"]
    assert check_boards(embedded[0], embedded[1]).notes == []  # the task's code makes them
    others = [keep_without_documents(board, tmp_path / name, "0123456789abcdef") for name in "ef"]
    result = check_boards(others[0], others[1])
    assert result.passed
    (note,) = result.notes
    assert "made by other code of the task (0123456789abcdef, here " in note
    assert not check_boards(board, others[0]).passed
