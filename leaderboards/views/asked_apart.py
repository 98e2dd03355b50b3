"""Whose wording the questions of measured scores had, and where scores of one column were asked in several ways.

    apart = asked_apart(columns)        # {key: "bare"}: of each score of such a column, how it was asked
    protocols_of(entries)               # {"llava-1.5-7b": "llava-1.5 (pope, mme), bare (chair)"}

Entries of other tools record no protocol, and are left aside.
"""

from collections.abc import Iterable, Sequence

from leaderboards.board.entry import PROTOCOL, Entry, Key, digest_of_protocol, name_of_protocol

SUFFIX = "prompt suffix"
"""In provenance: the text that the user put after every question."""


def asked_apart(columns: Iterable[Sequence[Entry]]) -> dict[Key, str]:
    """How each score was asked that stands in a column with scores that were asked otherwise, in words."""
    found: dict[Key, str] = {}
    for column in columns:
        own = [entry for entry in column if entry.imported is None]
        if len({_way_of(entry) for entry in own}) > 1:
            names = {_way_of(entry): _name_of(entry) for entry in own}
            alike = len(set(names.values())) < len(names)  # one name, of other content
            found |= {entry.key: _name_of(entry, whole=alike) for entry in own}
    return found


def protocols_of(entries: Iterable[Entry]) -> dict[str, str]:
    """Model -> its protocols, each with its tasks where there are several."""
    tasks: dict[str, dict[str, list[str]]] = {}
    for entry in entries:
        if entry.imported is None:
            tasks.setdefault(entry.model, {}).setdefault(_name_of(entry), []).append(entry.task)
    return {
        model: ", ".join(
            f"{name} ({', '.join(dict.fromkeys(own))})" if len(named) > 1 else name for name, own in named.items()
        )
        for model, named in tasks.items()
    }


def _way_of(entry: Entry) -> tuple[str, str]:
    return digest_of_protocol(entry.provenance.get(PROTOCOL)), entry.provenance.get(SUFFIX, "")


def _name_of(entry: Entry, *, whole: bool = False) -> str:
    name = entry.provenance.get(PROTOCOL, "bare") if whole else name_of_protocol(entry.provenance)
    suffix = entry.provenance.get(SUFFIX)
    return f"{name} + {suffix.strip()!r}" if suffix else name
