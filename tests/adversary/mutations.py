"""What may become of a file of a model, a run or a board: its bytes, its values, its place in the folder."""

import io
import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

Damage = Callable[[Path], object]
VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 10**30, 1e308, float("nan"), float("inf")),
    *("", "x", "../../x", "\ud800", "é\u202e", "9" * 5000, [], [[[]]], {}, {"a": {"a": None}}),
)
"""In the place of any value of a JSON file."""
NUMBERS: tuple[Any, ...] = (-7, 3, 2**31, 2**64, 0.5, -1e-9, "1")
"""In the place of a number."""


def mutations_of(path: Path, count: int, seed: str) -> dict[str, Damage]:
    """All ways to damage a file's bytes, and `count` drawn ones that change its values, by name."""
    draw = random.Random(f"{seed}/{path.name}")
    whole = path.read_bytes()
    found = dict(BYTES)
    found["bits"] = lambda path: path.write_bytes(_flip(whole, draw))
    if path.suffix in (".json", ".jsonl"):
        found |= _change_values(whole, path.suffix == ".jsonl", count, draw)
    elif path.suffix == ".safetensors":
        found |= _lie_in_header(whole)
    elif path.suffix in (".pt", ".pth"):
        found |= _save_others(path, count, draw)
    elif path.suffix == ".parquet":
        found |= _change_table(path)
    elif path.suffix == ".jinja":
        found |= {text[:25]: _writer(text.encode()) for text in TEMPLATES}
    return found


def _writer(data: bytes) -> Damage:
    return lambda path: path.write_bytes(data)


def _cut(part: float) -> Damage:
    return lambda path: path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])


def _replace_by(make: Callable[[Path], object]) -> Damage:
    def damage(path: Path) -> None:
        path.unlink()
        make(path)

    return damage


BYTES: dict[str, Damage] = {
    "gone": Path.unlink,
    "empty": _writer(b""),
    "half": _cut(0.5),
    "nearly whole": _cut(0.999),
    "bytes": _writer(bytes(range(256)) * 8),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "deep": _writer(b"[" * 100_000 + b"]" * 100_000),
    "a list": _writer(b"[]\n"),
    "an object": _writer(b"{}\n"),
    "null": _writer(b"null\n"),
    "a long number": _writer(b"9" * 100_000),
    "no UTF-8": _writer(b'{"a": "\xff"}\n'),
    "a folder": _replace_by(Path.mkdir),
    "a pipe": _replace_by(os.mkfifo),
    "a link to nothing": _replace_by(lambda path: path.symlink_to("none")),
    "a link to itself": _replace_by(lambda path: path.symlink_to(path.name)),
    "zip": _writer(b"PK\x05\x06" + bytes(18)),
}
TEMPLATES = (
    *("{{", "{% for x in", "{{ none.x.y }}", "{% include 'x' %}", "{{ messages[99] }}", "{{ raise_exception('no') }}"),
    *("{{ 1 / 0 }}", "", "no message", "{% for a in range(99999999) %}{% endfor %}", "{{ 'x' * 10 ** 9 }}", "\x00"),
)


def _flip(whole: bytes, draw: random.Random) -> bytes:
    data = bytearray(whole)
    for _ in range(max(3, len(data) // 200)):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(data)


def _places_of(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    for name, inner in items:
        yield (*place, name)
        yield from _places_of(inner, (*place, name))


def _change_values(whole: bytes, lines: bool, count: int, draw: random.Random) -> dict[str, Damage]:
    """JSON with a value taken out, or another in its place."""
    found: dict[str, Damage] = {}
    rows = [json.loads(line) for line in whole.splitlines() if line.strip()] if lines else [json.loads(whole)]
    places = [(index, place) for index in range(min(len(rows), 3)) for place in _places_of(rows[index])]
    # Values near the root decide more than the thousands in a list of tokens.
    weights = [1 / 4 ** len(place) for _, place in places]
    for _ in range(count if places else 0):
        ((index, place),) = draw.choices(places, weights)
        copy = json.loads(json.dumps(rows))
        inner = copy[index]
        for name in place[:-1]:
            inner = inner[name]
        is_number = isinstance(inner[place[-1]], (int, float)) and not isinstance(inner[place[-1]], bool)
        value = draw.choice(("gone", *VALUES, *(NUMBERS * 3 if is_number else ())))
        if isinstance(value, str) and value == "gone":
            del inner[place[-1]]
        else:
            inner[place[-1]] = value
        texts = [json.dumps(row) for row in copy]
        told = str(value)[:12].encode("ascii", "backslashreplace").decode()
        name = ".".join(map(str, (*((index,) if lines else ()), *place)))
        found[f"{name[:60]} = {told or '(empty)'}"] = _writer(("\n".join(texts) + "\n").encode())
    if lines:
        text = whole.decode()
        found["a line twice"] = _writer((text.splitlines()[0] + "\n" + text).encode())
        found["no end of a line"] = _writer(text.rstrip("\n").encode())
        found["a line of JSON that is no object"] = _writer((text + "[1]\n").encode())
        found["a cut line"] = _writer((text + '{"id": "1", "mo').encode())
    return found


def _lie_in_header(whole: bytes) -> dict[str, Damage]:
    """Safetensors whose header says what is not so."""
    size = int.from_bytes(whole[:8], "little")
    header, body = json.loads(whole[8 : 8 + size]), whole[8 + size :]
    first = next(name for name in header if name != "__metadata__")

    def write(change: Callable[[dict[str, Any]], object]) -> Damage:
        told = json.loads(json.dumps(header))
        change(told)
        text = json.dumps(told).encode()
        return _writer(len(text).to_bytes(8, "little") + text + body)

    lies: dict[str, Callable[[dict[str, Any]], object]] = {
        "no tensor": lambda told: told.clear(),
        "a tensor gone": lambda told: told.pop(first),
        "another name": lambda told: told.update({"x\u202e\n": told.pop(first)}),
        "a name of nothing": lambda told: told.update({"": told.pop(first)}),
        "no type": lambda told: told[first].update(dtype="F99"),
        "another type": lambda told: told[first].update(dtype="I32"),
        "a larger shape": lambda told: told[first].update(shape=[10**6, 10**6]),
        "a shape below 0": lambda told: told[first].update(shape=[-1, 2]),
        "a shape of one row": lambda told: told[first].update(shape=[1, 1], data_offsets=[0, 4]),
        "another shape": lambda told: told[first].update(shape=told[first]["shape"][::-1]),
        "behind the end": lambda told: told[first].update(data_offsets=[10**9, 10**9 + 4]),
        "metadata": lambda told: told.update(__metadata__={"format": "xx"}),
    }
    found = {f"header: {name}": write(change) for name, change in lies.items()}
    found["header: its length"] = _writer(b"\xff" * 8 + whole[8:])
    found["header: 99 MB"] = _writer((99_000_000).to_bytes(8, "little") + whole[8:])
    found["NaN"] = _writer(whole[: 8 + size] + b"\xff" * len(body))
    return found


def _save_others(path: Path, count: int, draw: random.Random) -> dict[str, Damage]:
    """States of training that torch reads, and that are not what goes on from there."""
    found: dict[str, Damage] = {}
    for name, value in (
        *(("a list", []), ("an object", {}), ("a tensor", torch.ones(2)), ("text", "x"), ("null", None), ("NaN", {})),
        *(("a state of nothing", {"state": {}, "param_groups": []}), ("a number", 3)),
    ):
        buffer = io.BytesIO()
        torch.save(value, buffer)
        found[f"torch: {name}"] = _writer(buffer.getvalue())
    whole = torch.load(path, weights_only=False)
    places = [place for place in _places_of(whole) if len(place) < 4]
    for _ in range(count if places else 0):
        copy = torch.load(path, weights_only=False)
        place = draw.choice(places)
        inner = copy
        for name in place[:-1]:
            inner = inner[name]
        other: Any = draw.choice((None, "x", -1, [], {}, torch.ones(3), float("nan")))
        try:
            inner[place[-1]] = other
        except TypeError:  # of a tuple
            continue
        buffer = io.BytesIO()
        torch.save(copy, buffer)
        found[f"torch: {'.'.join(map(str, place))} = {str(other)[:12]}"] = _writer(buffer.getvalue())
    return found


def _change_table(path: Path) -> dict[str, Damage]:
    """A parquet file with other columns, types and rows."""
    table = pq.read_table(path)
    changed = {"no rows": table.slice(0, 0), "a row less": table.slice(1), "twice": pa.concat_tables([table, table])}
    for place, name in enumerate(table.column_names):
        changed[f"no {name}"] = table.drop_columns([name])
        for kind, values in (("null", pa.nulls(len(table))), ("numbers", pa.array(range(len(table))))):
            changed[f"{name}: {kind}"] = table.set_column(place, name, values)
        changed[f"{name}: text"] = table.set_column(place, name, pa.array(["{[\u202e"] * len(table)))
    found: dict[str, Damage] = {}
    for name, one in changed.items():
        buffer = io.BytesIO()
        pq.write_table(one, buffer)
        found[name] = _writer(buffer.getvalue())
    return found
