"""One question of a run: what was asked, what came back, and what the task made of it.

    data = to_parquet([Sample(run="base-1", task="scenes_chair", id="7", image="scene-7", prompt="Describe.", answer="A
    cat.", ...)]) from_parquet(data)

A run's samples are one Parquet file of text columns, which any data tool opens; `records` and `repeats` are JSON in it,
as each metric has its own fields. Metrics with the same record share it: [{"metrics": ["precision", "recall"],
"record": {...}}]; logs of earlier versions hold it once a metric: {"precision": {...}, "recall": {...}}.
`schema/sample.json` describes a row to other programs.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final

from support.errors import DataError, one_line
from support.parsing import parse_json
from support.records import unpack
from support.text_parquet import UnsupportedParquetError, read_columns, write_columns


@dataclass(frozen=True, kw_only=True)
class JudgeRepeat:
    """What a further call of the judge made of an answer."""

    records: Mapping[str, Mapping[str, Any]]
    """Metric -> what the task counted for it, JSON values; empty = this repeat gave no rating."""

    reply: str | None
    """The judge's words; None = the judge failed."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One document of one task, as one run answered it."""

    run: str
    task: str

    id: str
    """Unique within the task, and the same in every run."""

    image: str
    """Id or digest of the image asked about."""

    prompt: str

    answer: str | None
    """The words that are scored (in logs of earlier versions, all that the model wrote); None = there is no answer."""

    records: Mapping[str, Mapping[str, Any]]
    """Metric -> what the task counted for it, JSON values; empty = unscored."""

    reply: str | None
    """The judge's words; None = not judged, or the judge failed."""

    cut: bool = False
    """Whether the model was stopped before it ended: once nothing more could change what is read from its answer, or by
    the limit of tokens."""

    image_digest: str | None = None
    """sha256 of the picture that was shown, as decoded: two runs whose digests differ were shown other pictures under
    one id; None = not known."""

    repeats: tuple[JudgeRepeat, ...] = ()
    """Further judge calls about the same answer, in order; `records` and `reply` are of the first call."""

    reason: str | None = None
    """Why the model gave no answer, or the answer was not scored or not read; None = it was, or it is not known."""

    document: str | None = None
    """JSON: the question with its right answer, from which the task counts `records`; None = not kept."""

    raw: str | None = None
    """All that the model wrote, where that is more than `answer`: with its thoughts, and white space around it."""

    reasoning: str | None = None
    """What the model thought before its answer; None = nothing, or it is not known."""


_COLUMNS = tuple(field.name for field in fields(Sample))

_OPTIONAL = ("answer", "reply", "image_digest", "repeats", "reason", "document", "raw", "reasoning")

MAX_SAMPLES: Final = 1_000_000
"""Of one log: a few bytes of a file may stand for any number of rows."""
MAX_UNPACKED: Final = 1 << 30
"""Bytes of one log's cells."""

_LATER = 7  # the last columns, which logs of earlier versions lack


def to_parquet(samples: Sequence[Sample]) -> bytes:
    """The file's bytes; the same for the same samples."""
    columns = {name: [sample.cut if name == "cut" else _text(sample, name) for sample in samples] for name in _COLUMNS}
    return write_columns(columns, len(samples))


def from_parquet(data: bytes) -> list[Sample]:
    """The samples in a file's bytes; ValueError if it is not a file of samples."""
    try:
        return _drop_unrated([_sample(row) for row in _read_rows(data)])
    except RecursionError:
        raise ValueError("records or repeats are nested too deep") from None


def _read_rows(data: bytes) -> Iterator[Mapping[str, Any]]:
    try:
        columns = read_columns(data, most_rows=MAX_SAMPLES, most_bytes=MAX_UNPACKED)
    except UnsupportedParquetError:  # a log that other programs wrote again, in their ways
        yield from _read_rows_with_pyarrow(data)
        return
    _check_columns(list(columns))
    for cells in zip(*columns.values(), strict=True):
        yield dict(zip(columns, cells, strict=True))


def _read_rows_with_pyarrow(data: bytes) -> Iterator[Mapping[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        _check_columns(file.schema_arrow.names)
        if file.metadata.num_rows > MAX_SAMPLES:
            raise ValueError(f"{file.metadata.num_rows:,} samples are over the limit of {MAX_SAMPLES:,}")
        yield from unpack(file, "samples", MAX_UNPACKED)
    except (pa.ArrowException, DataError) as error:
        raise ValueError(one_line(error)) from None


def _check_columns(names: Sequence[str]) -> None:
    if tuple(names) not in [_COLUMNS[: len(_COLUMNS) - lacking] for lacking in range(_LATER + 1)]:
        raise ValueError(f"columns must be {', '.join(_COLUMNS)}, not {', '.join(names)}")


def _drop_unrated(samples: list[Sample]) -> list[Sample]:
    """Without the records of metrics none of whose records holds a rating: logs of earlier versions kept these, and a
    value of them would be one of nothing."""
    found = [(s.task, name, record) for s in samples for name, record in _every_record(s)]
    if not any(record.get("unrated") for *_, record in found):
        return samples
    rated = {(task, name) for task, name, record in found if not record.get("unrated")}

    def keep(task: str, records: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
        return {name: record for name, record in records.items() if (task, name) in rated}

    return [
        replace(
            sample,
            records=keep(sample.task, sample.records),
            repeats=tuple(replace(one, records=keep(sample.task, one.records)) for one in sample.repeats),
        )
        for sample in samples
    ]


def _every_record(sample: Sample) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for records in (sample.records, *(one.records for one in sample.repeats)):
        yield from records.items()


def repeats_of(log: Mapping[str, Sample]) -> list[dict[str, Sample]]:
    """The log, samples by id, as each repeat of the judge rated it; a sample that a repeat did not rate has no records
    in its log."""
    count = 1 + max((len(sample.repeats) for sample in log.values()), default=0)
    if count == 1:
        return [dict(log)]
    return [{name: _as_rated(sample, turn) for name, sample in log.items()} for turn in range(count)]


def _as_rated(sample: Sample, turn: int) -> Sample:
    every = (JudgeRepeat(records=sample.records, reply=sample.reply), *sample.repeats)
    repeat = every[turn] if turn < len(every) else JudgeRepeat(records={}, reply=None)
    return replace(sample, records=repeat.records, reply=repeat.reply, repeats=())


def _text(sample: Sample, name: str) -> str | None:
    value = getattr(sample, name)
    if name == "repeats" and not value:
        return None
    if name in ("records", "repeats"):
        try:
            return json.dumps(_grouped(value) if name == "records" else _grouped_repeats(value), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"sample {sample.id!r} of {sample.task}: {name} must be JSON values: {error}") from None
    return None if value is None else _encodable(str(value))


def _grouped(records: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]] | dict[str, Any]:
    """Each distinct record once, with the metrics that it belongs to; {} where there is none."""
    groups: dict[str, dict[str, Any]] = {}
    for metric, record in records.items():
        key = json.dumps(dict(record), allow_nan=False)
        groups.setdefault(key, {"metrics": [], "record": dict(record)})["metrics"].append(metric)
    return list(groups.values()) or {}


def _grouped_repeats(repeats: Sequence[JudgeRepeat]) -> list[dict[str, Any]]:
    return [
        {"records": _grouped(repeat.records), "reply": None if repeat.reply is None else _encodable(repeat.reply)}
        for repeat in repeats
    ]


def _sample(row: Mapping[str, Any]) -> Sample:
    """Of a row of a file, which anyone may have written."""
    for name, value in row.items():
        wanted = bool if name == "cut" else str | None if name in _OPTIONAL else str
        if not isinstance(value, wanted):
            raise ValueError(f"sample {row['id']!r} of {row['task']}: {name} can't be {value!r}")
    records = _read_records(parse_json(row["records"]))
    if records is None:
        raise ValueError(f"sample {row['id']!r} of {row['task']}: records must map each metric to an object")
    return Sample(**{**row, "records": records, "repeats": _read_repeats(row)})


def _read_repeats(row: Mapping[str, Any]) -> tuple[JudgeRepeat, ...]:
    """Of a row of a file, which anyone may have written."""
    text = row.get("repeats")
    found = [] if text is None else parse_json(text)
    repeats = tuple(_read_repeat(one) for one in found) if isinstance(found, list) else (None,)
    if not all(repeats):
        raise ValueError(
            f"sample {row['id']!r} of {row['task']}: repeats must be a list of objects, each with records and reply"
        )
    return tuple(repeat for repeat in repeats if repeat is not None)


def _read_repeat(found: object) -> JudgeRepeat | None:
    if (
        not isinstance(found, dict)
        or found.keys() != {"records", "reply"}
        or not isinstance(found["reply"], str | None)
    ):
        return None
    records = _read_records(found["records"])
    return None if records is None else JudgeRepeat(records=records, reply=found["reply"])


def _read_records(found: object) -> dict[str, dict[str, Any]] | None:
    """Metric -> record, from either form of the file; None for what is neither. Metrics share a record's object."""
    if isinstance(found, dict):
        return found if all(isinstance(record, dict) for record in found.values()) else None
    records: dict[str, dict[str, Any]] = {}
    for group in (found if isinstance(found, list) else []) or [None]:
        match group:
            case {"metrics": [*metrics], "record": dict(record)} if all(isinstance(metric, str) for metric in metrics):
                records |= dict.fromkeys(metrics, record)
            case _:
                return None
    return records


def _encodable(text: str) -> str:
    # A JSON reply can hold half of a surrogate pair, which no UTF-8 file can: it must not cost the run its log.
    return text.encode("utf-8", "replace").decode("utf-8")
