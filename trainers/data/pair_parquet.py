"""Parquet files of pairs, with the types by which `datasets` opens their images."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from support.errors import DataError
from support.files import atomic_path
from support.records import Record, batches, write_parquet
from trainers.data.image_export import ImageExporter
from trainers.data.pair_records import finite
from trainers.data.rows import Preference


def write_trl(pairs: Iterable[Preference], path: Path, exporter: ImageExporter, group: int) -> int:
    """TRL's columns and our own, in row groups of `group` pairs; returns how many.

    Column by column: making a dict of every record would cost more than all else.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _trl_schema()
    count = 0
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for batch in batches(pairs, group):
            columns = _trl_columns(batch, exporter)
            arrays = [
                pa.array(columns[field.name], field.type)
                if isinstance(columns[field.name], list)
                else columns[field.name]
                for field in schema
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
            count += len(batch)
    return count


def _trl_schema() -> Any:
    from datasets import Features, Image, List, Value

    text = Value("string")
    messages, ratings = List({"role": text, "content": text}), List({"aspect": text, "rating": text})
    columns: dict[str, Any] = {"images": List(Image()), "prompt": messages, "chosen": messages, "rejected": messages}
    columns |= {"id": text, "row": Value("int64"), "row_id": text, "chosen_model": text, "rejected_model": text}
    columns |= {"margin": Value("float64"), "chosen_ratings": ratings, "rejected_ratings": ratings}
    return Features(columns | name_columns()).arrow_schema


def _trl_columns(batch: Sequence[Preference], exporter: ImageExporter) -> dict[str, Any]:
    """Column -> its values, as a list or, where they are nested, as an Arrow array."""
    if among := next((pair for pair in batch if pair.places), None):
        raise DataError(
            f"pair {among.id!r} has images among its words, which TRL's parquet has no place for: write jsonl"
        )
    given = [exporter.give(pair.images) for pair in batch]
    shown = [one for record in given for one in record.images]
    lengths = [len(record.images) for record in given]
    columns: dict[str, Any] = {
        "images": _list_of_structs(lengths, bytes=[one["bytes"] for one in shown], path=[one["path"] for one in shown])
    }
    for name, role in (("prompt", "user"), ("chosen", "assistant"), ("rejected", "assistant")):
        contents = [getattr(pair, name) for pair in batch]
        columns[name] = _list_of_structs([1] * len(batch), role=[role] * len(batch), content=contents)
    for name in ("id", "row", "row_id", "chosen_model", "rejected_model"):
        columns[name] = [getattr(pair, name) for pair in batch]
    columns["margin"] = [finite(pair.margin) for pair in batch]
    for name in ("chosen_ratings", "rejected_ratings"):
        rated = [getattr(pair, name) for pair in batch]
        aspects, values = [[*chain(*one)] for one in (rated, (ratings.values() for ratings in rated))]
        columns[name] = _list_of_structs([len(ratings) for ratings in rated], aspect=aspects, rating=values)
    return columns | {name: [record.names[name] for record in given] for name in ("image_names", "image_there")}


def _list_of_structs(lengths: Sequence[int], **fields: Sequence[Any]) -> Any:
    """An Arrow array of lists: `fields` hold the values of all lists, one after the other."""
    import pyarrow as pa

    ends = [0]
    for length in lengths:
        ends.append(ends[-1] + length)
    arrays = [pa.array(values, pa.binary() if name == "bytes" else pa.string()) for name, values in fields.items()]
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.StructArray.from_arrays(arrays, list(fields)))


def write_rlv(records: Iterator[Record], path: Path, group: int) -> int:
    """RLHF-V's or RLAIF-V's records, in row groups of `group`; returns how many."""
    from datasets import Features, Image, Value

    first = next(records, None)
    names = list(first) if first is not None else ["ds_name", "image"]
    schema = Features({name: Image() if name == "image" else Value("string") for name in names}).arrow_schema
    with atomic_path(path) as temporary:
        return write_parquet(chain([] if first is None else [first], records), temporary, schema, group)


def write_answers(records: Iterable[Record], path: Path, group: int) -> int:
    """Records of TRL's prompt and completion columns with our own, in row groups of `group`; returns how many."""
    from datasets import Features, Image, List, Value

    text = Value("string")
    messages, ratings = List({"role": text, "content": text}), List({"aspect": text, "rating": text})
    columns: dict[str, Any] = {"images": List(Image()), "prompt": messages, "completion": messages}
    columns |= {"row": Value("int64"), "row_id": text, "model": text, "ratings": ratings}
    with atomic_path(path) as temporary:
        return write_parquet(records, temporary, Features(columns | name_columns()).arrow_schema, group)


def name_columns() -> dict[str, Any]:
    """The columns of `Given.names`."""
    from datasets import List, Value

    return {"image_names": List(Value("string")), "image_there": List(Value("bool"))}
