"""A preference pair as a record of each format, and back.

What a format has no place for (row, models, margin, ratings) stands under our own names beside its columns.
"""

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from support.errors import DataError
from support.image_folders import ImageIndex
from support.images import ImageRef
from support.records import Record
from trainers.data.conversations import IMAGE_TOKEN, Message, NoPair, only_message, read_messages
from trainers.data.image_export import Given, safe_name
from trainers.data.image_places import count_marks, in_order, parts_of, read_places, with_marks
from trainers.data.pair_pictures import find_pictures
from trainers.data.rows import Preference


@dataclass(frozen=True, kw_only=True)
class Form:
    """One format of pairs."""

    fits: Callable[[Collection[str]], bool]
    """Whether a record with these columns is of it."""
    read: Callable[[Record, ImageIndex], dict[str, Any]]
    """The values of a Preference; NoPair for a record that holds none, KeyError for one of other columns."""
    write: Callable[[Preference, Given, int], Record]
    """Of a pair, its images as the file has them, and its place."""
    parquet: bool
    """Whether it is written as parquet too, with images as structs of bytes and path."""


# What is ours in every format.


def _write_origin(pair: Preference) -> Record:
    """What the forms have no place for, under our own names."""
    return {
        "row": pair.row,
        "row_id": pair.row_id,
        "chosen_model": pair.chosen_model,
        "rejected_model": pair.rejected_model,
        "margin": finite(pair.margin),
        "chosen_ratings": dict(pair.chosen_ratings),
        "rejected_ratings": dict(pair.rejected_ratings),
    }


def _read_origin(record: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a Preference that stand in a record under our names; none where it numbers no row."""
    row = record.get("row")
    if not isinstance(row, int) or isinstance(row, bool) or not -(2**63) <= row < 2**63:
        return {}
    return {
        "row": row,
        **{name: _read_id(record.get(name)) for name in ("row_id", "chosen_model", "rejected_model")},
        "margin": finite(record.get("margin")),
        **{name: _read_ratings(record.get(name)) for name in ("chosen_ratings", "rejected_ratings")},
    }


def finite(margin: Any) -> float | None:
    """JSON knows no infinity, which ratings such as "inf" give."""
    try:
        return float(margin) if isinstance(margin, (int, float)) and math.isfinite(margin) else None
    except OverflowError:
        return None


def _read_ratings(value: Any) -> dict[str, str]:
    if isinstance(value, list):
        listed = [(one.get("aspect"), one.get("rating")) for one in value if isinstance(one, dict)]
    else:
        listed = list(value.items()) if isinstance(value, dict) else []
    known = ((aspect, _read_id(rating)) for aspect, rating in listed if isinstance(aspect, str))
    return {aspect: rating for aspect, rating in known if rating}


def _read_id(value: Any) -> str:
    return str(value) if isinstance(value, str | int | float) else ""


# TRL's columns.


def _read_trl(record: Record, places: ImageIndex) -> dict[str, Any]:
    prompt = only_message(record["prompt"], "user", "prompt")
    return {
        "id": _read_id(record.get("id")),
        "prompt": prompt.text,
        **_with_places(prompt, places.with_absent(record, find_pictures(record, places, prompt, ("images", "image")))),
        "chosen": _read_answer(record["chosen"], "chosen answer"),
        "rejected": _read_answer(record["rejected"], "rejected answer"),
        **_read_origin(record),
    }


def _read_answer(value: Any, what: str) -> str:
    answer = only_message(value, "assistant", what)
    if answer.pictures:
        raise NoPair(f"a picture in the {what}")
    return answer.text


def _with_places(prompt: Message, images: tuple[ImageRef, ...]) -> dict[str, Any]:
    return {"images": images, "places": prompt.places if len(prompt.places) == len(images) else ()}


def _write_trl(pair: Preference, given: Given, place: int) -> Record:
    there = _places_there(pair, given)
    prompt = [{"role": "user", "content": parts_of(pair.prompt, there) if there else pair.prompt}]
    answers = {name: [{"role": "assistant", "content": getattr(pair, name)}] for name in ("chosen", "rejected")}
    return {"images": given.images, "prompt": prompt, **answers, "id": pair.id, **_write_origin(pair), **given.names}


# POVID and sharegpt: turns of {from, value}, images as tokens in the text, in their places.


def _places_there(pair: Preference, given: Given) -> list[int]:
    """The places of the images that the file has."""
    if not pair.places:
        return []
    return [place for place, there in zip(pair.places, given.names["image_there"], strict=True) if there]


def _write_prompt(pair: Preference, given: Given) -> str:
    if pair.places:
        return with_marks(pair.prompt, _places_there(pair, given), IMAGE_TOKEN)
    if given.images and count_marks(pair.prompt) == len(given.images):  # they are marked already
        return pair.prompt
    return f"{IMAGE_TOKEN}\n" * len(given.images) + pair.prompt


def _read_povid(record: Record, places: ImageIndex) -> dict[str, Any]:
    right, wrong = (_read_exchange(record[name]) for name in ("conversations", "rejected_conversations"))
    if right[0] != wrong[0]:
        raise NoPair("two different prompts")
    return _read_turns(record, places, ("image", "images"), right[0], (right[1].text, wrong[1].text), as_llava=True)


def _read_exchange(value: Any) -> tuple[Message, Message]:
    """The question and the answer of a conversation that has no more."""
    found = read_messages(value, "user", "conversation")
    if [message.role for message in found] != ["user", "assistant"]:
        raise NoPair("conversations of several turns" if len(found) > 2 else "conversations of no question and answer")
    return found[0], found[1]


def _read_turns(
    record: Record,
    places: ImageIndex,
    columns: Sequence[str],
    prompt: Message,
    answers: tuple[Any, Any],
    *,
    as_llava: bool = False,
) -> dict[str, Any]:
    given = find_pictures(record, places, prompt, columns)
    images = places.with_absent(record, given)
    if not prompt.pictures:
        count = len(images) if count_marks(prompt.text) == len(images) else len(given)
        text, stand = read_places(prompt.text, count, as_llava=as_llava)
        prompt, images = replace(prompt, text=text, places=stand), in_order(prompt.text, images)
    return {
        "id": _read_id(record.get("id")),
        "prompt": prompt.text,
        **_with_places(prompt, images),
        "chosen": _read_answer(answers[0], "chosen answer"),
        "rejected": _read_answer(answers[1], "rejected answer"),
        **_read_origin(record),
    }


def _write_povid(pair: Preference, given: Given, place: int) -> Record:
    images = given.images
    prompt = {"from": "human", "value": _write_prompt(pair, given)}
    return {
        "id": pair.id,
        **({"image": images[0] if len(images) == 1 else images} if images else {}),
        "conversations": [prompt, {"from": "gpt", "value": pair.chosen}],
        "rejected_conversations": [prompt, {"from": "gpt", "value": pair.rejected}],
        **_write_origin(pair),
        **given.names,
    }


def _read_sharegpt(record: Record, places: ImageIndex) -> dict[str, Any]:
    prompt = only_message(record["conversations"], "user", "prompt")
    return _read_turns(record, places, ("images", "image"), prompt, (record["chosen"], record["rejected"]))


def _write_sharegpt(pair: Preference, given: Given, place: int) -> Record:
    images = given.images
    return {
        "conversations": [{"from": "human", "value": _write_prompt(pair, given)}],
        "chosen": {"from": "gpt", "value": pair.chosen},
        "rejected": {"from": "gpt", "value": pair.rejected},
        "images": images,
        "id": pair.id,
        **_write_origin(pair),
        **given.names,
    }


# RLHF-V and RLAIF-V.


def _read_rlhf(record: Record, places: ImageIndex) -> dict[str, Any]:
    texts = _parse_object(record["text"])
    return _read_rlaif(record | {name: texts.get(name) for name in ("question", "chosen", "rejected")}, places)


def _read_rlaif(record: Record, places: ImageIndex) -> dict[str, Any]:
    name = record.get("image_path")
    origin = _parse_object(record.get("origin_split"))
    ours = _read_origin(origin)
    model = origin.get("model")
    by = {"chosen_model": model, "rejected_model": model} if isinstance(model, str) and not ours else {}
    prompt = only_message(record["question"], "user", "question")
    name = name if isinstance(name, str) else ""
    return {
        "id": _read_id(origin.get("id") if ours else record.get("idx")),
        "prompt": prompt.text,
        **_with_places(prompt, find_pictures(record, places, prompt, ("image", "image_path"), name)),
        "chosen": _read_answer(record["chosen"], "chosen answer"),
        "rejected": _read_answer(record["rejected"], "rejected answer"),
        **by,
        **ours,
    }


def _parse_object(value: Any) -> dict[str, Any]:
    """An object, or its JSON text, as origin_split and text hold it; nothing where it is another thing."""
    try:
        found = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _write_rlaif(pair: Preference, given: Given, place: int) -> Record:
    texts = {"question": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected}
    return {**_write_rl_image(pair, given), **texts, **_write_rl_origin(pair, place)}


def _write_rlhf(pair: Preference, given: Given, place: int) -> Record:
    texts = {"question": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected}
    text = json.dumps(texts, ensure_ascii=False)
    return {**_write_rl_image(pair, given), "text": text, **_write_rl_origin(pair, place)}


def _write_rl_image(pair: Preference, given: Given) -> Record:
    if len(pair.images) > 1:
        others = "rlhf-v and rlaif-v hold one: take trl, povid or sharegpt"
        raise DataError(f"pair {pair.id!r} has {len(pair.images)} images; {others}")
    if pair.places:
        raise DataError(f"pair {pair.id!r} has its image among its words: take trl, povid or sharegpt")
    return {"ds_name": "VLFeedback", "image": given.images[0] if given.images else None}


def _write_rl_origin(pair: Preference, place: int) -> Record:
    origin = json.dumps({"model": pair.chosen_model, "id": pair.id, **_write_origin(pair)}, ensure_ascii=False)
    image = safe_name(pair.images[0]) if pair.images else ""
    return {"origin_dataset": "VLFeedback", "origin_split": origin, "idx": str(place), "image_path": image}


def _has(*names: str) -> Callable[[Collection[str]], bool]:
    return lambda columns: set(names) <= set(columns)


FORMS: dict[str, Form] = {
    "povid": Form(
        fits=_has("conversations", "rejected_conversations"), read=_read_povid, write=_write_povid, parquet=False
    ),
    "sharegpt": Form(
        fits=_has("conversations", "chosen", "rejected"), read=_read_sharegpt, write=_write_sharegpt, parquet=False
    ),
    "rlaif-v": Form(fits=_has("question", "chosen", "rejected"), read=_read_rlaif, write=_write_rlaif, parquet=True),
    "rlhf-v": Form(fits=_has("text", "image", "ds_name"), read=_read_rlhf, write=_write_rlhf, parquet=True),
    "trl": Form(fits=_has("prompt", "chosen", "rejected"), read=_read_trl, write=_write_trl, parquet=True),
}
"""The known formats, in the order in which columns are tried."""
