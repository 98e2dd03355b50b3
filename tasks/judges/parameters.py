"""How a request is fitted to what a model takes: known from the table of families, or learnt, once for a run, from its
refusals.

    parameters = Parameters("openai/gpt-5-mini")
    sent = parameters.fit(asked := {"max_tokens": 9, "temperature": 0.0})   # {"max_completion_tokens": 9}
    in_words(asked, sent)                   # "temperature: not settable, max_completion_tokens"

What names a reply in the ledger is the request as the protocol has it, so a reply is found whatever was learnt. What
the user asked for is never left out: a server that refuses it ends the run with a SettingError.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from support.errors import SettingError
from tasks.judges.capabilities import LIMITS, Capabilities, capabilities_of
from tasks.judges.failures import NoReply, PermanentError
from tasks.judges.refused_parameters import (
    BY_VALUE,
    DETAIL,
    SYSTEM,
    is_beyond_context,
    is_of_all_values,
    is_of_limit,
    refused_parameter,
    wants_developer,
    wants_limit,
)
from tasks.judges.replies import LimitSpent
from tasks.thoughts import ROOM_FOR_THOUGHTS

log = logging.getLogger(__name__)

ROOM: Final = ROOM_FOR_THOUGHTS
"""Tokens for thoughts, on top of a protocol's limit, which means the answer or the verdict alone; and the limit where a
protocol gives none and the server wants one."""
LEAST_ROOM: Final = 256
"""Tokens for thoughts where the model's context is too small for that."""
OTHER_LIMIT: Final = dict(zip(LIMITS, reversed(LIMITS), strict=True))
LIKELIHOODS: Final = ("logprobs", "top_logprobs")
"""Taken together or not at all."""
NOT_SETTABLE: Final = "not settable"
SYSTEM_ROLES: Final = ("system", "developer")
MOST_AT_FIRST: Final = 1.0
"""The highest temperature and top_p of a protocol's first try; more is asked of single answers in later ones."""


class Parameters:
    """See the module's docstring. `takes`: by default, what is known from the model's name; `room`: whether limits are
    of the verdict alone, so that thoughts need more tokens; `asked`: parameters that the user set, each with how."""

    def __init__(
        self,
        model: str,
        *,
        room: bool = False,
        takes: Capabilities | None = None,
        asked: Mapping[str, str] | None = None,
    ) -> None:
        self.model, self.takes, self.asked = model, takes or capabilities_of(model), dict(asked or {})
        self.left_out: set[str] = set()
        self.refused_values: set[tuple[str, float]] = set()
        self.limit, self.system = self.takes.limit, self.takes.system
        self.makes_room, self.needs_room = room, False
        self.room = ROOM
        """Tokens for thoughts, where some are given; and the limit where nothing asks for one."""
        self.needs_limit = self.takes.needs_limit
        self._told: set[str] = set()
        """What was said once that the family does not take."""

    def fit(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The request as this model takes it."""
        takes = self.takes.at(body.get("reasoning_effort"))
        room = self.room if self._gives_room(body) else 0
        fitted: dict[str, Any] = {}
        for name, value in body.items():
            if name in LIMITS:
                fitted |= {self.limit: value + room} if self.limit not in self.left_out else {}
            elif name == "messages":
                fitted[name] = self._fit_messages(value, takes)
            elif name == "response_format" and takes.structured == "json_object":
                fitted[name] = {"type": "json_object"}
            elif not self._drops(name, value, takes):
                fitted[name] = value
        return fitted if self.limit in fitted or not self.needs_limit else fitted | {self.limit: self.room}

    def learn(self, failure: NoReply, sent: Mapping[str, Any], asked: Mapping[str, Any] | None = None) -> None:
        """Take from a failure how to ask this model, which is told once; the next `fit` shows whether that helps.
        `asked` is the request before it was fitted. SettingError for a parameter that the user asked for."""
        spent = isinstance(failure, LimitSpent) or (isinstance(failure, PermanentError) and is_of_limit(failure))
        if spent and self.makes_room and sent.keys() & {*LIMITS}:
            if not self._gives_room(sent):
                self.needs_room = True
                log.warning("%s: %s; asked with %d tokens more for its thoughts", self.model, failure.why, self.room)
        elif isinstance(failure, PermanentError) and failure.refused and wants_limit(failure, sent):
            if not self.needs_limit:
                self.needs_limit = True
                log.info("%s: asked with a limit of %d tokens: %s", self.model, self.room, failure.why)
        elif isinstance(failure, PermanentError) and self._has_own_tokens(sent, asked) and is_beyond_context(failure):
            self._shrink_room(failure, sent, asked or {})
        elif isinstance(failure, PermanentError) and (name := refused_parameter(failure, sent)) is not None:
            if name in self.asked and not ((name in LIMITS and self.limit != name) or self._other_name(name)):
                raise SettingError(f"{self.model}: {self.asked[name]}: not settable, the server says: {failure.why}")
            self._learn_name(name, sent, failure)

    def _gives_room(self, asked: Mapping[str, Any]) -> bool:
        """Whether the limit of a request has room for thoughts."""
        return self.makes_room and (self.needs_room or self.takes.at(asked.get("reasoning_effort")).thinks)

    def _has_own_tokens(self, sent: Mapping[str, Any], asked: Mapping[str, Any] | None) -> bool:
        """Whether tokens of a request's limit are ours to give: those for thoughts, or all where nothing asks for
        one."""
        return self._gives_room(sent) or (self.needs_limit and asked is not None and not asked.keys() & {*LIMITS})

    def _shrink_room(self, failure: NoReply, sent: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
        """Half of them, where prompt, room and reply do not fit into the model's context together."""
        before = next((asked[name] for name in LIMITS if name in asked), 0)
        if sent.get(self.limit) == before + self.room and self.room // 2 >= LEAST_ROOM:  # else another call has done it
            self.room //= 2
            what = "for its thoughts" if self._gives_room(sent) else "at most"
            log.info("%s: asked with %d tokens %s: %s", self.model, self.room, what, failure.why)

    def _drops(self, name: str, value: Any, takes: Capabilities) -> bool:
        if name in self.left_out or (name in BY_VALUE and (name, value) in self.refused_values):
            return True
        if takes.setting(name, value) is not False:
            return False
        shown = _name_asked(name, value)
        if shown not in self._told:
            self._told.add(shown)
            log.info("%s: %s: %s (%s), asked without", self.model, shown, NOT_SETTABLE, takes.family)
        return True

    def _fit_messages(self, messages: Any, takes: Capabilities) -> Any:
        without_detail = DETAIL in self.left_out or takes.detail is False
        fitted = [
            {**message, "content": [_fit_part(part, without_detail) for part in message["content"]]}
            if isinstance(message.get("content"), list)
            else message
            for message in messages
        ]
        if not fitted or fitted[0].get("role") != "system" or self.system == "system":
            return fitted
        if self.system == "developer":
            return [{**fitted[0], "role": "developer"}, *fitted[1:]]
        return [_put_before(str(fitted[0]["content"]), fitted[1]), *fitted[2:]] if len(fitted) > 1 else fitted

    def _other_name(self, name: str) -> str | None:
        """What a limit is called that was refused by its first name; None for what is no such name."""
        return OTHER_LIMIT[name] if name in LIMITS and self.limit == name == self.takes.limit else None

    def _learn_name(self, name: str, sent: Mapping[str, Any], failure: PermanentError) -> None:
        why, value = failure.why, sent.get(name)
        if name in LIMITS:
            if (other := self._other_name(name)) is not None:
                self.limit = other
                log.info("%s: asked with %s in place of %s: %s", self.model, other, name, why)
            elif self.limit == name and name not in self.left_out:  # else another call has learnt it
                self.left_out.add(name)
                log.warning("%s: asked without any limit of tokens: %s", self.model, why)
        elif name == SYSTEM:
            before, self.system = self.system, _next_role(self.system, sent, why)
            if before != self.system:
                how = "as a developer's" if self.system == "developer" else "before the question"
                log.info("%s: asked with the system message %s: %s", self.model, how, why)
        elif name in BY_VALUE and not is_of_all_values(failure):
            if (name, value) not in self.refused_values:
                self.refused_values.add((name, sent[name]))
                log.info("%s: %s %s: not settable, asked without: %s", self.model, name, value, why)
        elif name not in self.left_out:
            self.left_out |= {*LIKELIHOODS} if name in LIKELIHOODS else {name}
            log.info("%s: %s: not settable, asked without: %s", self.model, name, why)


def in_words(asked: Mapping[str, Any], sent: Mapping[str, Any]) -> str:
    """How what was sent (with its messages or without) differs from what the protocol asks for; empty if it does
    not."""
    words = [
        f"{_name_asked(name, value)}: {NOT_SETTABLE}"
        for name, value in asked.items()
        if name not in sent and name not in LIMITS and name not in ("model", "messages")
    ]
    if asked.get("response_format") != sent.get("response_format", asked.get("response_format")):
        words.append(f"response_format {sent['response_format'].get('type')}")
    before = next((asked[name] for name in LIMITS if name in asked), None)
    if before is not None and not sent.keys() & {*LIMITS}:
        words.append(f"limit of {before} tokens: {NOT_SETTABLE}")
    for name in LIMITS:
        if name in sent and sent[name] != asked.get(name):
            more = f" {sent[name]}" if before is None else f" + {sent[name] - before}" if sent[name] > before else ""
            words.append(f"{name}{more}")
    if "messages" in sent:
        words += _compare_messages(asked["messages"], sent["messages"])
    return ", ".join(words)


def not_settable(words: Collection[str]) -> list[str]:
    """Which of the parameters that a protocol gives (temperature, top_p) could not be had, by what `in_words` says of
    replies; the ledger's rows of earlier versions say "without temperature"."""
    found = {word for each in words for word in each.split(", ")}
    return [name for name in BY_VALUE if found & {f"{name}: {NOT_SETTABLE}", f"without {name}"}]


def _name_asked(name: str, value: Any) -> str:
    # A value above what is asked at first is of a few answers alone.
    return f"{name} {value:g}" if name in BY_VALUE and value > MOST_AT_FIRST else name


def _compare_messages(asked: Sequence[Mapping[str, Any]], sent: Sequence[Mapping[str, Any]]) -> list[str]:
    words = []
    if len(sent) < len(asked):
        words.append("system message before the question")
    elif any(one["role"] != other["role"] for one, other in zip(asked, sent, strict=True)):
        words.append("system message as a developer's")
    if set(_details_of(asked)) - {"auto"} and not _details_of(sent):
        words.append(f"{DETAIL}: {NOT_SETTABLE}")
    return words


def _details_of(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    parts = [part for each in messages if isinstance(each.get("content"), list) for part in each["content"]]
    return [part["image_url"][DETAIL] for part in parts if DETAIL in part.get("image_url", {})]


def _fit_part(part: Mapping[str, Any], without_detail: bool) -> Mapping[str, Any]:
    """A part of a message; without what is every server's own choice anyway."""
    image = part.get("image_url")
    if not isinstance(image, Mapping) or not (without_detail or image.get(DETAIL) == "auto"):
        return part
    return {**part, "image_url": {name: value for name, value in image.items() if name != DETAIL}}


def _put_before(system: str, message: Mapping[str, Any]) -> dict[str, Any]:
    content = message["content"]
    if isinstance(content, list):
        return {**message, "content": [{"type": "text", "text": system}, *content]}
    return {**message, "content": f"{system}\n\n{content}"}


def _next_role(role: str, sent: Mapping[str, Any], why: str) -> str:
    """In which role a system message is given, after it was refused in the one that was sent."""
    if not any(message.get("role") == role for message in sent.get("messages", ())):
        return role  # another call has learnt it meanwhile
    return "developer" if role == "system" and wants_developer(why) else "none"
