"""Secrets that are planted where users have them, and the search for them in all that a command leaves."""

import base64
import gzip
import json
import sqlite3
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import pyarrow.parquet as pq

USER: Final = "planteduser41"
PASSWORD: Final = "PASSW0RD@/pl'anted-1"
QUERY: Final = "QUERYKEYplanted2"
ODD: Final = "ODDplanted3"
FRAGMENT: Final = "FRAGMENTplanted4"
KEY: Final = "sk-PLANTEDkey5/678+90"
TOKEN: Final = "hf_PLANTEDtoken6"
PROXY: Final = "PROXYpass-planted7"
BASE: Final = "BASEpass-planted8"

ENVIRONMENT: Final = {
    "OPENAI_API_KEY": KEY,
    "HF_TOKEN": TOKEN,
    "HTTPS_PROXY": f"http://me:{PROXY}@127.0.0.1:9",
    "NO_PROXY": "127.0.0.1",
}


def url_of(at: str, mode: str = "ok", *, odd: bool = True) -> str:
    """The address of a server, with all that may be secret in it."""
    more = f"&x={ODD}#{FRAGMENT}" if odd else ""
    return f"http://{USER}:{quote(PASSWORD, safe='')}@{at}/{mode}/v1?api-key={QUERY}{more}"


def forms() -> Iterator[tuple[str, str]]:
    """Every secret's name, and the texts that tell of it."""
    secrets = {name: value for name, value in globals().items() if name.isupper() and isinstance(value, str)}
    secrets["LOGIN"] = f"{USER}:{PASSWORD}"
    for name, secret in secrets.items():
        raw = secret.encode()
        yield from ((name, text) for text in (secret, quote(secret, safe=""), json.dumps(secret)[1:-1], raw.hex()))
        yield from ((name, base64.b64encode(b"0" * place + raw).decode()[2 + place : -4]) for place in range(3))
        if name != "USER" and len(secret) > 12:
            yield name, secret[:10]


FORMS: Final = [(name, form.lower().encode()) for name, form in forms()]


def leaks_in(data: bytes | str) -> list[str]:
    """Names of the secrets in a text."""
    low = (data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data).lower()
    return sorted({name for name, form in FORMS if form in low})


def leaks_of(folder: Path) -> Mapping[str, list[str]]:
    """Names of the secrets in each file of a folder, in its content or in its name."""
    found = {}
    for path in folder.rglob("*"):
        leaks = leaks_in(path.name) + [name for text in texts_of(path) for name in leaks_in(text)]
        if leaks:
            found[path.relative_to(folder).as_posix()] = sorted(set(leaks))
    return found


def texts_of(path: Path) -> Iterator[bytes | str]:
    """A file's bytes, and what is packed in them."""
    if not path.is_file():
        return
    data = path.read_bytes()
    yield data
    if data[:4] == b"PAR1":
        yield json.dumps(pq.read_table(path).to_pylist(), default=_as_text, ensure_ascii=False)
    elif data[:2] == b"\x1f\x8b":
        yield gzip.decompress(data)
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as packed:
            yield from (packed.read(name) for name in packed.namelist())
    elif data[:15] == b"SQLite format 3":
        with sqlite3.connect(path) as db:
            db.text_factory = lambda text: text.decode("utf-8", "replace")
            for (table,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                yield from map(repr, db.execute(f"SELECT * FROM {table}"))


def _as_text(value: Any) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else repr(value)
