"""Makers of files that instructions are read from, and what is read and drawn of them."""

import io
import json
import random
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from trainers.config.data import Data, InstructionSource, PoolModel
from trainers.vlfeedback.instructions import Instruction
from trainers.vlfeedback.sampling import instructions_of
from trainers.vlfeedback.sources import Item, open_source

POOL = (PoolModel(model="a"), PoolModel(model="b"))


def photo(seed: int, format: str = "JPEG", side: int = 64, quality: int = 90) -> bytes:
    """A picture unlike those of other seeds: soft colours, with edges."""
    rng = random.Random(seed)
    small = Image.new("RGB", (6, 6))
    small.putdata([(rng.randrange(256), rng.randrange(256), rng.randrange(256)) for _ in range(36)])
    written = io.BytesIO()
    small.resize((side, side), Image.Resampling.BICUBIC).save(written, format, quality=quality)
    return written.getvalue()


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    return write(path, "".join(json.dumps(row) + "\n" for row in rows).encode())


def zipped(path: Path, members: Mapping[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def read(**values: Any) -> tuple[list[Item], Counter[str]]:
    """The items of a source, and the reasons of the rows that are none."""
    found = list(open_source(InstructionSource(**values)).items())
    return [one for one in found if isinstance(one, Item)], Counter(one for one in found if isinstance(one, str))


def talk(id: str, image: str | None, *said: str) -> dict[str, Any]:
    turns = [{"from": ("human", "gpt")[number % 2], "value": text} for number, text in enumerate(said)]
    return {"id": id, **({"image": image} if image else {}), "conversations": turns}


def data(*found: InstructionSource, count: int, **changes: Any) -> Data:
    return Data(instructions=count, pool=POOL, sources=found, **changes)


def drawn(folder: Path, wanted: Data, seed: int = 0) -> tuple[list[Instruction], dict[str, dict[str, Any]]]:
    """What is drawn, and the record by source."""
    found = instructions_of(wanted, seed, folder / "images")
    record = json.loads((folder / "sampling.json").read_text())
    return found, {one["name"]: one for one in record["sources"]}


def table(path: Path, count: int, start: int = 0) -> Path:
    """JSON lines of `count` questions, each about a picture of its own."""
    numbers = {number: f"{path.stem}-{number}.jpg" for number in range(start, start + count)}
    for number, name in numbers.items():
        write(path.parent / name, photo(number))
    return lines(path, [{"id": n, "image": name, "question": f"What is at {n}?"} for n, name in numbers.items()])
