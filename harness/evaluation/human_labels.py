"""People's ratings of answers on a board: the file to fill in, its reader, and what tasks count for them.

    write_template(Path("labels.csv"), judged_logs(entries, load), images=100, seed=0)
    labels = match_labels(Path("labels.csv"), read_labels(Path("labels.csv")), judged_logs(entries, load))
    labels(entry)                            # sample id -> records, as comparisons take them

Whoever rates sees neither the judge's ratings nor the model: a row is found again by its task, its id and the digest of
its answer. So a label counts for every model that gave this very answer, and never for an answer that changed since.
"""

import csv
import hashlib
import io
import json
import logging
import math
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from harness.evaluation.guards import answer_in
from harness.evaluation.rater_agreement import find_number
from harness.evaluation.rescore import find_documents
from harness.evaluation.scoring import rate
from leaderboards.board.entry import Entry
from leaderboards.board.sample import Sample
from leaderboards.comparison.human_labels import HumanRecords, Labels
from leaderboards.comparison.paired_logs import Loader, Logs
from support.errors import CompareError, DataError
from support.files import atomic_write
from support.markdown import line
from support.parsing import parse_json
from support.records import read
from support.tables import csv_cell
from tasks.human_labels import as_reply, scale_of
from tasks.registry import registry

log = logging.getLogger(__name__)

MOST_TURNS: Final = 60
"""Rounds of raters; it has all numbers from 1 to 6 as divisors."""
COLUMNS: Final = ("task", "id", "answer_id", "image", "question", "answer", "known", "scale", "rating")
Run = tuple[str, str]
"""Run id and task."""


@dataclass(frozen=True, kw_only=True)
class Label:
    """One person's rating of one answer."""

    place: int
    """Of its row, counted from 1."""
    id: str
    rating: float
    task: str
    """Empty: not said; so of `model`, `answer_id` and `rater`."""
    model: str
    answer_id: str
    rater: str


@dataclass(frozen=True, kw_only=True, eq=False)
class JudgedLog:
    """The answers of one run to one judged task."""

    entry: Entry
    """Any of the run's entries of the task."""
    log: Mapping[str, Sample]


def judged_logs(entries: Iterable[Entry], load: Loader) -> dict[Run, JudgedLog]:
    """The logs of the judged tasks among these entries; what has no log is told."""
    logs, found = Logs(load), dict[Run, JudgedLog]()
    for entry in entries:
        key = entry.run, entry.task
        if entry.judge is None or key in found:
            continue
        try:
            own = logs.of(entry)
        except (CompareError, OSError) as error:
            log.warning(line(f"labels can't be used for {entry.model} {entry.task}: {error}"))
            continue
        if own:
            found[key] = JudgedLog(entry=entry, log=own)
    return found


def answer_id(answer: str) -> str:
    """A digest that tells answers apart, whatever a spreadsheet makes of their text."""
    return hashlib.sha256(answer.encode("utf-8", "replace")).hexdigest()[:12]


def write_template(path: Path, logs: Mapping[Run, JudgedLog], *, images: int, seed: int) -> tuple[int, int]:
    """Write a file to fill in: all answers about images drawn at random, in random order, an answer that several models
    gave once. The numbers of rows and images."""
    rng, rows, drawn = random.Random(seed), list[dict[str, str]](), 0
    for task in dict.fromkeys(task for _, task in logs):
        scale, own = scale_of(task), [one.log for (_, name), one in logs.items() if name == task]
        everywhere = sorted({sample.image for log in own for sample in log.values() if sample.answer is not None})
        chosen = set(rng.sample(everywhere, min(images, len(everywhere))))
        drawn += len(chosen)
        found: dict[tuple[str, str], dict[str, str]] = {}
        for sample in (sample for log in own for sample in log.values() if sample.image in chosen):
            if sample.answer is None or not sample.records:
                continue
            digest = answer_id(sample.answer)
            row = {"task": task, "id": sample.id, "answer_id": digest, "image": sample.image}
            row |= {"question": sample.prompt, "answer": answer_in(sample) or "", "known": _tell_known(sample)}
            found.setdefault((sample.id, digest), row | {"scale": scale.words, "rating": ""})
        more = list(found.values())
        rng.shuffle(more)
        rows += more
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([csv_cell(row[name]) for name in COLUMNS] for row in rows)
    atomic_write(path, sink.getvalue().encode("utf-8", "replace"))
    return len(rows), drawn


def _tell_known(sample: Sample) -> str:
    """What the benchmark says of the question, such as its right answer; nothing that a judge or a program added."""
    document = parse_json(sample.document or "{}")
    names = [name for name in registry().task(sample.task).columns if name not in ("image", "question", "id")]
    known = {name: document[name] for name in names if name in document} if isinstance(document, dict) else {}
    return json.dumps(known, ensure_ascii=False) if known else ""


def read_labels(path: Path) -> list[Label]:
    """The rows of a file that have a rating; DataError for a rating that is no number, and where none has one."""
    try:
        rows = list(read(path, strict=True))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    found, empty = [], 0
    for place, row in enumerate(rows, start=1):
        if row.get("id") in (None, "") or "rating" not in row:
            raise DataError(f"{path}: row {place} lacks id or rating; it has {', '.join(map(line, map(str, row)))}")
        if row["rating"] is None or not str(row["rating"]).strip():
            empty += 1
            continue
        rating = find_number(row["rating"])
        if rating is None:
            raise DataError(f"{path}: row {place}: rating {line(str(row['rating']))!r} is no number")
        texts = {name: _read_text(row.get(name)) for name in ("id", "task", "model", "answer_id", "rater")}
        found.append(Label(place=place, rating=rating, **texts))
    if not found:
        raise DataError(f"{path}: no row has a rating")
    if empty:
        log.info(f"{path}: {empty} of {len(rows)} rows have no rating yet")
    return found


def _read_text(value: Any) -> str:
    text = "" if value is None else str(value).strip()
    return text[1:] if text.startswith("'") and csv_cell(text[1:]) == text else text


def match_labels(path: Path, labels: Sequence[Label], logs: Mapping[Run, JudgedLog]) -> Labels:
    """The labels of each run's answers, as records.

    DataError for a task or model that has no judged answers here, an id that no log has, a rating that is not on its
    task's scale, two ratings by one rater of one answer, and a row that could be of several tasks or models. Rows whose
    answer is another one by now are left out, and told.
    """
    tasks = list(dict.fromkeys(task for _, task in logs))
    ratings: dict[Run, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    seen: dict[tuple[Run, str, str], int] = {}
    changed = []
    for label in labels:
        where = f"{path}: row {label.place}"
        task = _find_task(label, tasks, where)
        if not (scale := scale_of(task)).holds(label.rating):
            raise DataError(f"{where}: rating {label.rating:g} is not {scale.words}, the scale of {task}")
        runs = _find_runs(label, {run: one for run, one in logs.items() if run[1] == task}, where)
        same = [run for run in runs if _is_of(label, logs[run].log[label.id])]
        if not same:
            changed.append(label)
        for run in same:
            earlier = seen.setdefault((run, label.id, label.rater), label.place)
            if earlier != label.place:
                raise DataError(
                    f"{where}: the answer {label.id!r} was rated in row {earlier} already; "
                    "several raters need a column `rater`"
                )
            ratings[run][label.id].append(label.rating)
    if changed:
        few = ", ".join(repr(label.id) for label in changed[:3])
        log.warning(line(f"{path}: {len(changed)} labels are left out, since the answers are others by now: {few}"))
    records = {run: _make_records(logs[run], own) for run, own in ratings.items()}
    if not any(records.values()):
        raise DataError(f"{path}: no label is of an answer on these boards")
    return lambda entry: records.get((entry.run, entry.task), {})


def _find_task(label: Label, tasks: Sequence[str], where: str) -> str:
    if not tasks:
        raise DataError(f"{where}: there is no judged task with a sample log to use labels for")
    if not label.task and len(tasks) > 1:
        raise DataError(f"{where}: several tasks are judged here; name one in a column `task`: {', '.join(tasks)}")
    if label.task and label.task not in tasks:
        raise DataError(f"{where}: no judged answers of task {line(label.task)!r} here; known: {', '.join(tasks)}")
    return label.task or tasks[0]


def _find_runs(label: Label, logs: Mapping[Run, JudgedLog], where: str) -> list[Run]:
    """The runs that a label may be of."""
    models = list(dict.fromkeys(one.entry.model for one in logs.values()))
    if label.model and label.model not in models:
        known = ", ".join(map(line, models))
        raise DataError(f"{where}: no judged answers of model {line(label.model)!r} here; known: {known}")
    if not label.model and not label.answer_id and len(models) > 1:
        raise DataError(f"{where}: answers of several models are here; a column `model` or `answer_id` says which")
    runs = [run for run, one in logs.items() if label.model in ("", one.entry.model)]
    having = [run for run in runs if label.id in logs[run].log]
    if not having:
        example = next((id for run in runs for id in logs[run].log), "")
        raise DataError(f"{where}: no sample has the id {line(label.id)!r}; ids are such as {line(example)!r}")
    return having


def _is_of(label: Label, sample: Sample) -> bool:
    """Whether it rates the answer that the log has."""
    return sample.answer is not None and label.answer_id in ("", answer_id(sample.answer))


def _make_records(one: JudgedLog, ratings: Mapping[str, Sequence[float]]) -> HumanRecords:
    """What the task counts for the ratings, as often as makes each rater of an answer count alike; empty, and told,
    where the log lacks the documents."""
    task = registry().task(one.entry.task)
    docs = find_documents(task, one.entry, {id: one.log[id] for id in ratings})
    if docs is None:
        log.warning(f"labels can't be used for {line(one.entry.model)} {task.name}: its log keeps no documents")
        return {}
    unknown, times = scale_of(task.name).unknown, min(MOST_TURNS, math.lcm(*set(map(len, ratings.values()))))
    found: dict[str, list[Mapping[str, Mapping[str, Any]]]] = {}
    for turn in range(times):
        replies = [as_reply(own[turn % len(own)], one.log[id].answer or "") for id, own in ratings.items()]
        for id, rated in zip(ratings, rate(task, docs, replies, None), strict=True):
            records = {name: record for name, record in rated.records.items() if name not in unknown}
            found.setdefault(id, []).append(records)
    return found
