"""Preference pairs in the formats of others: TRL's columns, POVID, RLHF-V, RLAIF-V and LLaMA-Factory's sharegpt
ranking.

    write_pairs(pairs, Path("pairs.parquet"))                     # TRL's columns; `datasets` opens the pictures
    for pair in read_pairs(Path("RLAIF-V-Dataset")): ...          # the form is told by the columns

| form | records | pictures a pair | where ids, models, margin and ratings stand |
|---|---|---|---|
| trl | images, prompt, chosen, rejected (conversations) | any number | columns of their own |
| povid | id, image, conversations, rejected_conversations | any number | further keys |
| sharegpt | conversations, chosen, rejected, images | any number | further keys |
| rlhf-v | image, text (JSON of question, chosen, rejected), origin_split, idx, ... | at most one | in the JSON of
origin_split |
| rlaif-v | image, question, chosen, rejected, origin_split, idx, ... | at most one | in the JSON of origin_split |

Pictures are given as paths that open: absolute ones in parquet, for `datasets` knows no others; in JSON relative ones
where they are below the file's folder, which can be moved with it (`datasets` opens those from that folder as the
working directory). Pictures of zips and tables are copied into `<stem>_images/` beside the file; with `embed_images`
all are bytes in parquet, and such copies in JSON. Without `copy_images` nothing is copied: a zip's are given as
`zip://MEMBER::ZIP`, which `datasets` opens too, but by reading the zip's whole directory for each; a table's are not
given. A picture that is not there, or is no image, is not among the images, so that what is written
loads: all are named in `image_names`, with true or false in `image_there`.
A pair is one prompt and two answers: what has a history, or a system message, is skipped and counted, or refused where
nobody counts.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support.errors import DataError, did_you_mean
from support.image_folders import ImageIndex, there, within
from support.records import PARQUET, Record, batches, data_files, read, suffix, whole, write_json, write_parquet
from trainers.data.image_export import Given, ImageExporter, Unreadable, safe_name
from trainers.data.rows import Preference

if TYPE_CHECKING:
    from trainers.data.pair_rules import BestAnswer

IMAGE_TOKEN = "<image>"

_GROUP = {False: 5000, True: 100}
"""Pairs in a row group of parquet: with their images there are few."""


class _NoPair(Exception):
    """A record that holds no single prompt with two answers; the message says why."""


@dataclass(kw_only=True)
class SeenPairs:
    """What was met while pairs were read."""

    pairs: int = 0
    missing_images: int = 0
    """Pictures that are not there."""
    unreadable_images: int = 0
    """Pictures that are no images, met while pairs were written and left out; each once."""
    torn_lines: int = 0
    """Last lines cut off while they were written, left out."""
    skipped: Counter[str] = field(default_factory=Counter)
    """Why records gave no pair -> how many."""

    def summary(self) -> str:
        """One line: the pairs, and every count that is not zero."""
        parts = [f"{self.pairs:,} pairs"]
        parts += [f"{self.missing_images:,} missing images"] * (self.missing_images > 0)
        parts += [f"{self.unreadable_images:,} unreadable images"] * (self.unreadable_images > 0)
        parts += [f"{self.torn_lines:,} torn lines"] * (self.torn_lines > 0)
        return "; ".join(parts + [f"{count:,} skipped ({reason})" for reason, count in self.skipped.most_common()])

    def torn(self) -> None:
        """Count a last line that was cut off."""
        self.torn_lines += 1


@dataclass(frozen=True, kw_only=True)
class _Form:
    fits: Callable[[Collection[str]], bool]
    read: Callable[[Record, ImageIndex], dict[str, Any]]
    write: Callable[[Preference, Given, int], Record]
    """Of a pair, its pictures as the file has them, and its place."""
    parquet: bool
    """Whether it is written as parquet too, with pictures as structs of bytes and path."""


def read_pairs(
    path: Path, images: Path | None = None, form: str | None = None, *, seen: SeenPairs | None = None
) -> Iterator[Preference]:
    """The pairs of a file or a folder of shards; `images` is a folder or zip of pictures, where they do not stand
    beside the data.

    Where the data do not number rows, neighbours of equal prompt and pictures are one row, and ids are made unique by
    their place.
    """
    known = _form(form) if form is not None else None
    files = data_files(path, known.fits if known else lambda columns: _detect(columns) is not None)
    places = within(path, files, images)
    row, before = -1, None
    count = 0
    for file in files:
        for number, record in enumerate(read(file, seen.torn if seen else None), start=1):
            where = f"{file}, record {number}"
            this = known or _form_of(record, where)
            try:
                values = this.read(record, places)
            except _NoPair as reason:
                if seen is None:
                    raise DataError(f"{where}: {reason}; a pair is one prompt and two answers") from None
                seen.skipped[str(reason)] += 1
                continue
            except (KeyError, TypeError, AttributeError, ValueError) as error:
                wrong = f"{type(error).__name__} {error}"
                raise DataError(f"{where}: not {_name(this)} (columns {', '.join(record)}): {wrong}") from error
            same = (values["prompt"], values["images"])
            if "row" not in values:
                row += same != before
                values |= {
                    "row": row,
                    "row_id": values["id"],
                    "id": f"{count}/{values['id']}" if values["id"] else str(count),
                }
            before, row = same, values["row"]
            count += 1
            pair = Preference(**values)
            if seen is not None:
                seen.pairs += 1
                seen.missing_images += sum(not there(picture) for picture in pair.images)
            yield pair


def write_pairs(
    pairs: Iterable[Preference],
    path: Path,
    form: str = "trl",
    *,
    embed_images: bool = False,
    copy_images: bool = True,
    seen: Unreadable | None = None,
) -> int:
    """Write pairs as `.parquet`, `.jsonl` or `.json` (one list), whole or not at all; returns how many.

    `seen` (a SeenPairs, or the Seen of the rows) counts the pictures that are no images.
    """
    known = _form(form)
    kind = suffix(path)
    if kind not in {".jsonl", ".json"} and not (kind == PARQUET and known.parquet):
        endings = ".parquet, .jsonl or .json" if known.parquet else ".jsonl or .json"
        raise DataError(f"{path}: {form} is written as {endings}")
    structs = kind == PARQUET
    outlet = ImageExporter(path, structs=structs, embed=embed_images, copy=copy_images, counts=seen)
    if structs and form == "trl":
        return _write_trl(pairs, path, outlet, _GROUP[embed_images])
    records = (known.write(pair, outlet.give(pair.images), place) for place, pair in enumerate(pairs))
    return _write_rlv(records, path, _GROUP[embed_images]) if structs else write_json(records, path)


def write_best(
    answers: Iterable["BestAnswer"],
    path: Path,
    *,
    embed_images: bool = False,
    copy_images: bool = True,
    seen: Unreadable | None = None,
) -> int:
    """Write answers to learn from by themselves in TRL's prompt and completion columns, `.parquet`, `.jsonl` or
    `.json`; how many."""
    kind = suffix(path)
    if kind not in {PARQUET, ".jsonl", ".json"}:
        raise DataError(f"{path}: answers are written as .parquet, .jsonl or .json")
    structs = kind == PARQUET
    outlet = ImageExporter(path, structs=structs, embed=embed_images, copy=copy_images, counts=seen)

    def record(answer: "BestAnswer") -> Record:
        rated: Any = dict(answer.ratings)
        given = outlet.give(answer.images)
        return {
            "images": given.images,
            "prompt": [{"role": "user", "content": answer.prompt}],
            "completion": [{"role": "assistant", "content": answer.completion}],
            "row": answer.row,
            "row_id": answer.row_id,
            "model": answer.model,
            "ratings": [{"aspect": aspect, "rating": rating} for aspect, rating in rated.items()] if structs else rated,
            **given.names,
        }

    records = map(record, answers)
    if not structs:
        return write_json(records, path)
    from datasets import Features, Image, List, Value

    text = Value("string")
    said, rating = List({"role": text, "content": text}), List({"aspect": text, "rating": text})
    ours = {"row": Value("int64"), "row_id": text, "model": text, "ratings": rating, **_names_columns()}
    schema = Features({"images": List(Image()), "prompt": said, "completion": said, **ours}).arrow_schema
    with whole(path) as temporary:
        return write_parquet(records, temporary, schema, _GROUP[embed_images])


def _names_columns() -> dict[str, Any]:
    from datasets import List, Value

    return {"image_names": List(Value("string")), "image_there": List(Value("bool"))}


def _form(name: str) -> _Form:
    if name not in FORMS:
        raise DataError(f"no form {name!r}{did_you_mean(name, FORMS)}")
    return FORMS[name]


def _detect(columns: Collection[str]) -> _Form | None:
    return next((form for form in FORMS.values() if form.fits(columns)), None)


def _name(form: _Form) -> str:
    return next(name for name, known in FORMS.items() if known is form)


def _form_of(record: Record, where: str) -> _Form:
    found = _detect(record)
    if found is None:
        hint = " (rated answers: make pairs of them first)" if "completions" in record else ""
        raise DataError(
            f"{where}: no form has the columns {', '.join(record) or '(none)'}{hint}; known: {', '.join(FORMS)}"
        )
    return found


# --- what is ours in every form


def _origin(pair: Preference) -> Record:
    """What the forms have no place for, under our own names."""
    return {
        "row": pair.row,
        "row_id": pair.row_id,
        "chosen_model": pair.chosen_model,
        "rejected_model": pair.rejected_model,
        "margin": _finite(pair.margin),
        "chosen_ratings": dict(pair.chosen_ratings),
        "rejected_ratings": dict(pair.rejected_ratings),
    }


def _origin_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a Preference that stand in a record under our names; none where it numbers no row."""
    row = record.get("row")
    if not isinstance(row, int) or not -(2**63) <= row < 2**63:
        return {}
    return {
        "row": row,
        **{name: str(record.get(name) or "") for name in ("row_id", "chosen_model", "rejected_model")},
        "margin": _finite(record.get("margin")),
        **{name: _ratings_of(record.get(name)) for name in ("chosen_ratings", "rejected_ratings")},
    }


def _finite(margin: Any) -> float | None:
    """JSON knows no infinity, which ratings such as "inf" give."""
    try:
        return float(margin) if isinstance(margin, (int, float)) and math.isfinite(margin) else None
    except OverflowError:
        return None


def _ratings_of(value: Any) -> dict[str, str]:
    if isinstance(value, list):
        return {str(item["aspect"]): str(item["rating"]) for item in value}
    return {str(aspect): str(rating) for aspect, rating in (value or {}).items() if rating is not None}


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise _NoPair(f"no {what}")
    return value


# --- trl


def _read_trl(record: Record, places: ImageIndex) -> dict[str, Any]:
    return {
        "id": str(record.get("id") or ""),
        "prompt": _message(record["prompt"], "user", "prompt"),
        "images": places.with_absent(record, places.pictures(record, "images", "image")),
        "chosen": _message(record["chosen"], "assistant", "chosen answer"),
        "rejected": _message(record["rejected"], "assistant", "rejected answer"),
        **_origin_of(record),
    }


def _message(value: Any, role: str, what: str) -> str:
    """The text of a conversation of one message, or of a bare string."""
    if not isinstance(value, list):
        return _text(value, what)
    if len(value) != 1:
        raise _NoPair(f"{what} of several messages" if value else f"no {what}")
    message = value[0]
    if message.get("role") != role:
        raise _NoPair(f"{what} by {message.get('role')!r}")
    content = message.get("content")
    if isinstance(content, list):
        content = "\n".join(
            part["text"] for part in content if part.get("type") == "text" and part.get("text") is not None
        )
    return _text(content, what)


def _trl(pair: Preference, given: Given, place: int) -> Record:
    return {
        "images": given.images,
        "prompt": [{"role": "user", "content": pair.prompt}],
        "chosen": [{"role": "assistant", "content": pair.chosen}],
        "rejected": [{"role": "assistant", "content": pair.rejected}],
        "id": pair.id,
        **_origin(pair),
        **given.names,
    }


def _write_trl(pairs: Iterable[Preference], path: Path, outlet: ImageExporter, group: int) -> int:
    """Column by column: a record's dicts would cost more than all else."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Features, Image, List, Value

    text = Value("string")
    message, rating = {"role": text, "content": text}, {"aspect": text, "rating": text}
    ours = {
        "id": text,
        "row": Value("int64"),
        "row_id": text,
        "chosen_model": text,
        "rejected_model": text,
        "margin": Value("float64"),
    }
    said = {name: List(message) for name in ("prompt", "chosen", "rejected")}
    rated = {name: List(rating) for name in ("chosen_ratings", "rejected_ratings")}
    schema = Features({"images": List(Image()), **said, **ours, **rated, **_names_columns()}).arrow_schema

    def offsets(lengths: Iterable[int]) -> Any:
        ends = [0]
        for length in lengths:
            ends.append(ends[-1] + length)
        return pa.array(ends, pa.int32())

    def messages(role: str, contents: list[str]) -> Any:
        turns = pa.StructArray.from_arrays(
            [pa.array([role] * len(contents)), pa.array(contents, pa.string())], ["role", "content"]
        )
        return pa.ListArray.from_arrays(offsets([1] * len(contents)), turns)

    def ratings(all_of: list[Mapping[str, str]]) -> Any:
        flat = [item for one in all_of for item in one.items()]
        columns = [
            pa.array([aspect for aspect, _ in flat], pa.string()),
            pa.array([given for _, given in flat], pa.string()),
        ]
        return pa.ListArray.from_arrays(
            offsets(map(len, all_of)), pa.StructArray.from_arrays(columns, ["aspect", "rating"])
        )

    def pictures(all_of: list[list[Any]]) -> Any:
        flat = [one for images in all_of for one in images]
        columns = [
            pa.array([one["bytes"] for one in flat], pa.binary()),
            pa.array([one["path"] for one in flat], pa.string()),
        ]
        return pa.ListArray.from_arrays(
            offsets(map(len, all_of)), pa.StructArray.from_arrays(columns, ["bytes", "path"])
        )

    count = 0
    with whole(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for batch in batches(pairs, group):
            given = [outlet.give(pair.images) for pair in batch]
            plain = [
                pa.array([getattr(pair, name) for pair in batch], schema.field(name).type)
                for name in ours
                if name != "margin"
            ]
            margins = pa.array([_finite(pair.margin) for pair in batch], pa.float64())
            columns = [
                pictures([one.images for one in given]),
                messages("user", [pair.prompt for pair in batch]),
                messages("assistant", [pair.chosen for pair in batch]),
                messages("assistant", [pair.rejected for pair in batch]),
                *plain,
                margins,
                ratings([pair.chosen_ratings for pair in batch]),
                ratings([pair.rejected_ratings for pair in batch]),
                *(
                    pa.array([one.names[name] for one in given], schema.field(name).type)
                    for name in ("image_names", "image_there")
                ),
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
            count += len(batch)
    return count


# --- povid and sharegpt: turns of {from, value}, images as tokens in the text


def _with_tokens(prompt: str, images: int) -> str:
    return f"{IMAGE_TOKEN}\n" * images + prompt


def _without_tokens(value: str, images: int) -> str:
    """The prompt without as many image tokens as there are images: those in front first, then those at the end, then
    any."""
    left = images
    while left and value.startswith(IMAGE_TOKEN):
        value = value[len(IMAGE_TOKEN) :]
        value = value[1:] if value.startswith("\n") else value.lstrip(" ")
        left -= 1
    while left and value.endswith(IMAGE_TOKEN):
        value = value[: -len(IMAGE_TOKEN)].rstrip(" ").removesuffix("\n")
        left -= 1
    return value.replace(IMAGE_TOKEN, "", left) if left else value


def _turn(turns: Any, place: int, speakers: Sequence[str], what: str) -> str:
    turn = turns[place] if isinstance(turns, list) else turns
    if isinstance(turn, str):
        return turn
    if turn.get("from") not in speakers:
        raise _NoPair(f"{what} by {turn.get('from')!r}")
    return _text(turn.get("value"), what)


_HUMAN = ("human", "user")
_MODEL = ("gpt", "assistant")


def _read_povid(record: Record, places: ImageIndex) -> dict[str, Any]:
    right, wrong = record["conversations"], record["rejected_conversations"]
    if len(right) != 2 or len(wrong) != 2:
        raise _NoPair("conversations of several turns")
    if right[0].get("value") != wrong[0].get("value"):
        raise _NoPair("two different prompts")
    images = places.pictures(record, "image", "images")
    return {
        "id": str(record.get("id") or ""),
        "prompt": _without_tokens(_turn(right, 0, _HUMAN, "prompt"), len(images)),
        "images": places.with_absent(record, images),
        "chosen": _turn(right, 1, _MODEL, "chosen answer"),
        "rejected": _turn(wrong, 1, _MODEL, "rejected answer"),
        **_origin_of(record),
    }


def _povid(pair: Preference, given: Given, place: int) -> Record:
    images = given.images
    asked = {"from": "human", "value": _with_tokens(pair.prompt, len(images))}
    return {
        "id": pair.id,
        **({"image": images[0] if len(images) == 1 else images} if images else {}),
        "conversations": [asked, {"from": "gpt", "value": pair.chosen}],
        "rejected_conversations": [asked, {"from": "gpt", "value": pair.rejected}],
        **_origin(pair),
        **given.names,
    }


def _read_sharegpt(record: Record, places: ImageIndex) -> dict[str, Any]:
    turns = record["conversations"]
    if len(turns) != 1:
        raise _NoPair("conversations of several turns")
    images = places.pictures(record, "images", "image")
    return {
        "id": str(record.get("id") or ""),
        "prompt": _without_tokens(_turn(turns, 0, _HUMAN, "prompt"), len(images)),
        "images": places.with_absent(record, images),
        "chosen": _turn(record["chosen"], 0, _MODEL, "chosen answer"),
        "rejected": _turn(record["rejected"], 0, _MODEL, "rejected answer"),
        **_origin_of(record),
    }


def _sharegpt(pair: Preference, given: Given, place: int) -> Record:
    images = given.images
    return {
        "conversations": [{"from": "human", "value": _with_tokens(pair.prompt, len(images))}],
        "chosen": {"from": "gpt", "value": pair.chosen},
        "rejected": {"from": "gpt", "value": pair.rejected},
        "images": images,
        "id": pair.id,
        **_origin(pair),
        **given.names,
    }


# --- rlhf-v and rlaif-v


def _read_rlhf(record: Record, places: ImageIndex) -> dict[str, Any]:
    said = record["text"]
    said = json.loads(said) if isinstance(said, str) else said
    return _read_rlaif(record | {name: said.get(name) for name in ("question", "chosen", "rejected")}, places)


def _read_rlaif(record: Record, places: ImageIndex) -> dict[str, Any]:
    name = record.get("image_path")
    origin = _json_object(record.get("origin_split"))
    ours = _origin_of(origin)
    model = origin.get("model")
    by = {"chosen_model": model, "rejected_model": model} if isinstance(model, str) and not ours else {}
    return {
        "id": str(origin.get("id") if ours else record.get("idx", "")),
        "prompt": _text(record["question"], "question"),
        "images": places.pictures(record, "image", "image_path", name=name if isinstance(name, str) else ""),
        "chosen": _text(record["chosen"], "chosen answer"),
        "rejected": _text(record["rejected"], "rejected answer"),
        **by,
        **ours,
    }


def _json_object(value: Any) -> dict[str, Any]:
    """What origin_split holds in both datasets; nothing where it is another thing."""
    try:
        found = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _rlaif(pair: Preference, given: Given, place: int) -> Record:
    return {
        **_rl_image(pair, given),
        "question": pair.prompt,
        "chosen": pair.chosen,
        "rejected": pair.rejected,
        **_rl_origin(pair, place),
    }


def _rlhf(pair: Preference, given: Given, place: int) -> Record:
    said = {"question": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected}
    return {**_rl_image(pair, given), "text": json.dumps(said, ensure_ascii=False), **_rl_origin(pair, place)}


def _rl_image(pair: Preference, given: Given) -> Record:
    if len(pair.images) > 1:
        raise DataError(
            f"pair {pair.id!r} has {len(pair.images)} images; rlhf-v and rlaif-v hold one: take trl, povid or sharegpt"
        )
    return {"ds_name": "VLFeedback", "image": given.images[0] if given.images else None}


def _rl_origin(pair: Preference, place: int) -> Record:
    return {
        "origin_dataset": "VLFeedback",
        "origin_split": json.dumps({"model": pair.chosen_model, "id": pair.id, **_origin(pair)}, ensure_ascii=False),
        "idx": str(place),
        "image_path": safe_name(pair.images[0]) if pair.images else "",
    }


def _write_rlv(records: Iterator[Record], path: Path, group: int) -> int:
    from datasets import Features, Image, Value

    first = next(records, None)
    text = Value("string")
    names = list(first) if first is not None else ["ds_name", "image"]
    schema = Features({name: Image() if name == "image" else text for name in names}).arrow_schema
    with whole(path) as temporary:
        return write_parquet(chain([] if first is None else [first], records), temporary, schema, group)


def _has(*names: str) -> Callable[[Collection[str]], bool]:
    return lambda columns: set(names) <= set(columns)


FORMS: dict[str, _Form] = {
    "povid": _Form(fits=_has("conversations", "rejected_conversations"), read=_read_povid, write=_povid, parquet=False),
    "sharegpt": _Form(
        fits=_has("conversations", "chosen", "rejected"), read=_read_sharegpt, write=_sharegpt, parquet=False
    ),
    "rlaif-v": _Form(fits=_has("question", "chosen", "rejected"), read=_read_rlaif, write=_rlaif, parquet=True),
    "rlhf-v": _Form(fits=_has("text", "image", "ds_name"), read=_read_rlhf, write=_rlhf, parquet=True),
    "trl": _Form(fits=_has("prompt", "chosen", "rejected"), read=_read_trl, write=_trl, parquet=True),
}
"""The known forms, in the order in which columns are tried."""
