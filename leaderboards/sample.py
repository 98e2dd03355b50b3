"""One question of a run: what was asked, what came back, and what the task made of it.

    data = to_parquet([Sample(run="base-1", task="scenes_chair", id="7", image="scene-7", prompt="Describe.", answer="A cat.", ...)])
    from_parquet(data)

A run's samples are one Parquet file of text columns, which any data tool opens; `records` are JSON in it, as each metric has its own
fields. `schema/sample.json` describes a row to other programs.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any


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
    """The model's words; None = generation failed."""

    records: Mapping[str, Mapping[str, Any]]
    """Metric -> what the task counted for it, JSON values; empty = unscored."""

    reply: str | None
    """The judge's words; None = not judged, or the judge failed."""

    cut: bool = False
    """Whether the model was stopped once nothing more could change what is read from its answer."""

    image_digest: str | None = None
    """sha256 of the picture that was shown, as decoded: two runs whose digests differ were shown other pictures under one id; None = not
    known."""


_COLUMNS = tuple(field.name for field in fields(Sample))

_LATER = 2  # of the columns, which logs written before there were such lack


def to_parquet(samples: Sequence[Sample]) -> bytes:
    """The file's bytes; the same for the same samples."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, pa.bool_() if name == "cut" else pa.string()) for name in _COLUMNS])
    columns = {name: [sample.cut if name == "cut" else _text(sample, name) for sample in samples] for name in _COLUMNS}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns, schema=schema), sink, compression="zstd")
    return bytes(sink.getvalue())


def from_parquet(data: bytes) -> list[Sample]:
    """The samples in a file's bytes; ValueError if it is not a file of samples."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(pa.BufferReader(data))
    if tuple(table.column_names) not in [_COLUMNS[: len(_COLUMNS) - lacking] for lacking in range(_LATER + 1)]:
        raise ValueError(f"columns must be {', '.join(_COLUMNS)}, not {', '.join(table.column_names)}")
    return [Sample(**row | {"records": json.loads(row["records"])}) for row in table.to_pylist()]


def _text(sample: Sample, name: str) -> str | None:
    value = getattr(sample, name)
    if name == "records":
        try:
            return json.dumps({metric: dict(record) for metric, record in value.items()}, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"sample {sample.id!r} of {sample.task}: records must be JSON values: {error}") from None
    if value is None:
        return None
    # A JSON reply can hold half of a surrogate pair, which no UTF-8 file can: it must not cost the run its log.
    return str(value).encode("utf-8", "replace").decode("utf-8")
