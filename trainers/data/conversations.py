"""Conversations in a row of preference data: the one message of a prompt, or of an answer, and the pictures it names.

    message = only_message(record["prompt"], "user", "prompt")     # NoPair for a system message, a history, a tool turn
    message.text, message.pictures                                 # a picture without a name of its own is None

Messages are {role, content} or {from, value}, a bare text, or any of these as JSON text in a cell. Content is a text or
a list of parts; a picture is a part of Qwen's form ({"type": "image", "image": NAME}), of OpenAI's ({"type":
"image_url", "image_url": {"url": NAME}}), or one without a name, which stands for the next picture of the row's column.
One rule for all that is more than a question and its answers: a pair with a system message, a history, a tool turn or a
film, in its messages or in a column of its own, is skipped and counted.
"""

import ast
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from support.image_cells import parse_json

IMAGE_TOKEN: Final = "<image>"

_ROLES: Final = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}
_TEXT: Final = ("text", "input_text", "output_text")
_PICTURE: Final = ("image", "image_url", "input_image")
_NAMES: Final = ("image", "image_url", "url", "path", "file", "base64", "data", "bytes", "source")
"""Keys of a part under which its picture is named, or stands."""


_LISTS: Final = {"history": "a history", "tools": "tools"}
_MORE: Final = {
    **dict.fromkeys(("system", "system_prompt"), "a system message"),
    **dict.fromkeys(("video", "videos", "audio", "audios"), "a film or sound"),
    **_LISTS,
}
"""Columns of what a pair has no place for; of _LISTS, texts are something else."""
_FILM: Final = re.compile(r"<\|?(?:video|audio)(?:_pad|_placeholder|_?\d+)?\|?>", re.IGNORECASE)


class NoPair(Exception):
    """A record that holds no single prompt with two answers; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Message:
    """What one speaker says."""

    role: str
    text: str
    pictures: tuple[Any, ...] = ()
    """In their order: what names each picture, as the cell of a column would; None for one that a column names."""
    places: tuple[int, ...] = ()
    """Where in the text each of these pictures stands, in characters; () for all in front."""


def check_columns(record: Mapping[str, Any]) -> None:
    """NoPair for what a record has beside its conversation and its pictures, such as LLaMA-Factory's `system`."""
    for column, what in _MORE.items():
        value = parse_json(record.get(column))
        if isinstance(value, str):
            held = bool(value.strip()) and column not in _LISTS
        else:
            held = any(value) if isinstance(value, list) else bool(value)
        if held:
            raise NoPair(f"{what} in column {column!r}")


def only_message(value: Any, role: str, what: str) -> Message:
    """The message of a conversation that has no other; NoPair."""
    found = read_messages(value, role, what)
    if len(found) == 1 and found[0].role == role:
        if role == "user" and (mark := _FILM.search(found[0].text)):
            raise NoPair(f"{mark[0]} in the {what}")
        return found[0]
    if not found:
        raise NoPair(f"no {what}")
    roles = [message.role for message in found]
    if "system" in roles or "developer" in roles:
        raise NoPair(f"{what} with a system message")
    if {"tool", "function", "observation", "function_call", "ipython"} & set(roles):
        raise NoPair(f"{what} with a tool turn")
    raise NoPair(f"{what} of several messages" if len(found) > 1 else f"{what} by {found[0].role!r}")


def read_messages(value: Any, role: str, what: str) -> list[Message]:
    """The messages of a conversation; a bare text is one by `role`. NoPair for what is none."""
    value = parse_conversation(value)
    if isinstance(value, str):
        return [Message(role=role, text=value)]
    listed = [value] if isinstance(value, Mapping) else value
    if listed is None:
        return []
    if not isinstance(listed, list) or not all(isinstance(one, str | Mapping) for one in listed):
        raise NoPair(f"{what} is no text and no conversation")
    return [Message(role=role, text=one) if isinstance(one, str) else _read_message(one, what) for one in listed]


def _read_message(message: Mapping[str, Any], what: str) -> Message:
    role = message.get("role") if message.get("role") is not None else message.get("from")
    if not isinstance(role, str):
        raise NoPair(f"{what} by nobody")
    role = _ROLES.get(role, role)
    if message.get("tool_calls"):
        return Message(role="tool", text="")
    content = message.get("content") if message.get("content") is not None else message.get("value")
    if isinstance(content, str):
        return Message(role=role, text=content)
    if not isinstance(content, list):
        raise NoPair(f"no {what}")
    return _read_parts(role, content, what)


def _read_parts(role: str, parts: list[Any], what: str) -> Message:
    text = ""
    texts = 0
    pictures: list[Any] = []
    places: list[int] = []
    between = ""
    """What separates the next text from the one before it: nothing, where a picture does."""
    for part in parts:
        kind = part.get("type") if isinstance(part, Mapping) else "text"
        if isinstance(part, Mapping) and kind is None:  # Qwen-VL's own form has no type
            kind = next((name for name in (*_PICTURE, "text") if part.get(name) is not None), None)
        said = part.get("text") if isinstance(part, Mapping) else part
        if kind in _TEXT and isinstance(said, str):
            text += between + said
            texts, between = texts + 1, "\n"
        elif kind in _PICTURE and isinstance(part, Mapping):
            places.append(len(text))
            pictures.append(_find_name(part))
            between = ""
        elif kind not in _TEXT:
            raise NoPair(f"{what} with a part of type {kind!r}" if isinstance(kind, str) else f"no {what}")
    if not texts and not pictures:
        raise NoPair(f"no {what}")
    return Message(role=role, text=text, pictures=tuple(pictures), places=tuple(places) if any(places) else ())


def _find_name(part: Mapping[str, Any]) -> Any:
    """What a part says of its picture; None if it only marks a place."""
    for name in _NAMES:
        value = part.get(name)
        if value is not None and value not in ("", [], {}):
            if isinstance(value, Mapping) and not {"bytes", "path"} & value.keys():
                return _find_name(value)
            return value
    return None


def parse_conversation(value: Any) -> Any:
    """A conversation that stands in a cell as text (JSON, or as Python prints it); anything else as it is."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return value
    for parse in (json.loads, ast.literal_eval):
        try:
            found = parse(value.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        listed = [found] if isinstance(found, dict) else found
        if isinstance(listed, list) and listed and all(map(_is_message, listed)):
            return found
    return value


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and ({"role", "content"} <= value.keys() or {"from", "value"} <= value.keys())
