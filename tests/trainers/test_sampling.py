"""What is drawn of sources is fair, without duplicates, the same each time, and each picture is read once."""

import json
import random
import zipfile
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from support.errors import DataError
from support.images import decode
from support.progress import show_on
from tests.trainers.source_files import data, drawn, lines, photo, table, talk, write
from trainers.config.data import Filters, InstructionSource
from trainers.vlfeedback.instructions import Instruction, scenes_instructions
from trainers.vlfeedback.sampling import candidates, instructions_of, order, shares
from trainers.vlfeedback.sources import Item, declared, open_source


def source(name: str, path: Path, **values: Any) -> InstructionSource:
    return InstructionSource(name=name, path=str(path), **values)


def test_shares_add_up_by_largest_remainder() -> None:
    assert shares(1000, {"SVIT": 22823, "RTVLM": 2100}) == {"SVIT": 916, "RTVLM": 84}
    assert shares(2, {"a": 1, "b": 1, "c": 1}) == {"a": 1, "b": 1, "c": 0}
    published = {name: one.published for name, one in declared().items() if name != "RTVLM"}
    assert shares(80_258, published) == published


def test_drawing_depends_on_the_seed_and_not_on_the_order_of_the_file(tmp_path: Path) -> None:
    path = table(tmp_path / "t.jsonl", 40)
    one_source = source("t", path)
    one, record = drawn(tmp_path / "one", data(one_source, count=10), seed=1)
    assert (record["t"]["available"], record["t"]["drawn"]) == (40, 10)
    other = drawn(tmp_path / "other", data(one_source, count=10), seed=2)[0]
    assert {x.id for x in one} != {x.id for x in other}
    text = path.read_text().splitlines()
    random.Random(0).shuffle(text)
    path.write_text("\n".join(text) + "\n")
    assert drawn(tmp_path / "shuffled", data(one_source, count=10), seed=1)[0] == one


def test_more_candidates_than_are_kept_in_memory_are_read_in_the_same_order(tmp_path: Path) -> None:
    from trainers.vlfeedback import sampling

    one_source = source("t", table(tmp_path / "t.jsonl", 30))

    def found(reserve: int) -> list[Item]:
        part = sampling._Part(source=one_source, opened=open_source(one_source), weight=1)
        items = list(candidates(part, 3, Filters(), reserve))
        assert (part.rows, part.available) == (30, 30)
        return items

    assert found(4) == found(100)
    assert [order(3, "t", item) for item in found(4)] == sorted(order(3, "t", item) for item in found(4))


def test_weights_counts_and_the_rest_of_a_short_source(tmp_path: Path) -> None:
    parts = [
        source("big", table(tmp_path / "big.jsonl", 30), weight=1),
        source("short", table(tmp_path / "short.jsonl", 4, 100), weight=2),
        source("fixed", table(tmp_path / "fixed.jsonl", 9, 200), count=3),
    ]
    found, record = drawn(tmp_path / "run", data(*parts, count=21))
    assert Counter(x.source for x in found) == {"big": 14, "short": 4, "fixed": 3}
    figures = {name: (one["share"], one["short"], one["from_others"]) for name, one in record.items()}
    assert figures == {"big": (6, 0, 8), "short": (12, 8, 0), "fixed": (3, 0, 0)}


def test_declared_sources_are_weighted_as_vlfeedback_was(tmp_path: Path) -> None:
    for name, first in (("llava", 0), ("lrv", 300)):
        for number in range(first, first + 30):
            write(tmp_path / name / f"{number}.jpg", photo(number))
    write(tmp_path / "llava/l.json", [talk(str(n), f"{n}.jpg", f"What is {n}?", "x") for n in range(30)])
    rows = [{"image_id": str(n), "question": f"Is there {n}?", "answer": "x"} for n in range(300, 330)]
    write(tmp_path / "lrv/l.json", rows)
    pair = (
        source("LLaVA", tmp_path / "llava/l.json", images=str(tmp_path / "llava")),
        source("LRV", tmp_path / "lrv"),
    )
    found, _ = drawn(tmp_path / "run", data(*pair, count=26))
    assert Counter(x.source for x in found) == {"LLaVA": 16, "LRV": 10}  # 19,614 : 12,357
    with pytest.raises(DataError, match="mine: needs a weight"):
        drawn(
            tmp_path / "x",
            data(*pair, source("mine", table(tmp_path / "m/m.jsonl", 1)), count=3),
        )


def test_the_scenes_give_what_they_give_alone_and_what_others_lack(tmp_path: Path) -> None:
    short = source("t", table(tmp_path / "t.jsonl", 2))
    found, record = drawn(tmp_path / "run", data(InstructionSource(name="scenes"), short, count=10))
    assert [x.source for x in found] == [""] * 8 + ["t"] * 2
    assert (record["scenes"]["share"], record["scenes"]["drawn"]) == (5, 8)
    assert found[:8] == scenes_instructions(data(count=8), 0, tmp_path / "alone")
    assert instructions_of(data(count=8), 0, tmp_path / "as-before") == found[:8]
    assert not (tmp_path / "sampling.json").exists()


def test_prompts_too_short_and_too_long_are_left_out(tmp_path: Path) -> None:
    write(tmp_path / "a.jpg", photo(1))
    prompts = ["Why", "Why is it so?", "Why is it so, and not in any other way at all?", "", "A " + "y" * 80]
    path = lines(tmp_path / "t.jsonl", [{"image": "a.jpg", "prompt": text} for text in prompts])
    filters = Filters(min_words=2, max_words=6, max_characters=60)
    found, record = drawn(tmp_path / "run", data(source("t", path), count=5, filters=filters))
    assert [x.prompt for x in found] == ["Why is it so?"]
    assert record["t"]["filtered"] == {"no prompt": 1, "too long": 2, "too short": 1}


def test_small_pictures_are_left_out_and_not_kept(tmp_path: Path) -> None:
    write(tmp_path / "small.png", photo(1, "PNG", side=20))
    write(tmp_path / "large.png", photo(2, "PNG", side=80))
    source = InstructionSource(name=str(tmp_path), prompts=("Describe it.",))
    found, record = drawn(tmp_path / "run", data(source, count=2, filters=Filters(min_side=32)))
    assert len(found) == 1
    assert record[str(tmp_path)]["filtered"] == {"small picture": 1}
    assert [path.name for path in (tmp_path / "run/images").iterdir()] == [found[0].image]


@pytest.fixture
def copies(tmp_path: Path) -> Path:
    """One picture as three files: two the same, one another encoding of it; and a stranger."""
    for name, content in {"a": photo(1), "b": photo(1), "c": photo(1, quality=60), "d": photo(2)}.items():
        write(tmp_path / f"in/{name}.jpg", content)
    return tmp_path / "in"


def test_the_same_words_about_the_same_picture_are_taken_once(copies: Path, tmp_path: Path) -> None:
    prompts = {"a": "What is it?", "b": "what is it", "c": "What is it?", "d": "What is it?"}
    rows = [{"image": f"{name}.jpg", "prompt": prompt} for name, prompt in prompts.items()]
    one_source = source("t", lines(copies / "t.jsonl", rows))
    found, record = drawn(tmp_path / "near", data(one_source, count=4))
    assert (len(found), sum(record["t"]["filtered"].values())) == (2, 2)
    assert set(record["t"]["filtered"]) <= {"duplicate", "near-duplicate"}
    found, record = drawn(tmp_path / "exact", data(one_source, count=4, filters=Filters(near=False)))
    assert (len(found), record["t"]["filtered"]) == (3, {"duplicate": 1})


def test_how_often_one_picture_or_one_wording_is_taken_can_be_limited(copies: Path, tmp_path: Path) -> None:
    one_source = source("t", copies, prompts=("What is it?", "Where is it?", "Why?"))
    found, record = drawn(tmp_path / "free", data(one_source, count=12))
    assert len(found) == 6
    found, record = drawn(tmp_path / "images", data(one_source, count=12, filters=Filters(per_image=1)))
    assert (len(found), len({x.image for x in found})) == (2, 2)
    assert record["t"]["filtered"]["duplicate image"] >= 4
    found, record = drawn(tmp_path / "prompts", data(one_source, count=12, filters=Filters(per_prompt=1)))
    assert sorted(x.prompt for x in found) == ["What is it?", "Where is it?", "Why?"]
    assert record["t"]["filtered"]["duplicate prompt"] >= 1


def test_duplicates_are_found_between_sources(tmp_path: Path) -> None:
    one, two = table(tmp_path / "one/t.jsonl", 5), table(tmp_path / "two/t.jsonl", 5)
    found, record = drawn(
        tmp_path / "run",
        data(source("one", one), source("two", two), count=10),
    )
    assert (len(found), record["two"]["filtered"]) == (5, {"duplicate": 5})


def test_pictures_keep_their_bytes_under_safe_names_and_ids_are_unique(tmp_path: Path) -> None:
    names = ["weird name;rm -rf.jpg", "b/c.png"]
    for number, name in enumerate(names):
        write(tmp_path / name, photo(number, ("JPEG", "PNG")[number]))
    rows = [{"id": "same", "image": name, "prompt": text} for name in names for text in ("Why?", "Who?")]
    path = lines(tmp_path / "t.jsonl", rows)
    found, _ = drawn(tmp_path / "run", data(source("t", path), count=4))
    kept = {x.image: (tmp_path / "run/images" / x.image).read_bytes() for x in found}
    assert set(kept.values()) == {photo(0), photo(1, "PNG")}
    assert all(decode(content) for content in kept.values())
    assert {Path(name).suffix for name in kept} == {".jpg", ".png"}
    assert all(Path(name).stem.isalnum() and len(Path(name).stem) == 16 for name in kept)
    assert len({x.id for x in found}) == 4
    assert {x.origin for x in found} == {"same"}
    assert [Instruction(**json.loads(json.dumps(asdict(x)))) for x in found] == found


def test_red_team_rows_keep_their_source(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / f"data/Captcha/img/{number}.jpg", photo(number))
    lines(tmp_path / "data/Captcha/captcha.jsonl", [{"id": n, "instruction": f"Read captcha {n}."} for n in range(3)])
    found, _ = drawn(tmp_path / "run", data(source("RTVLM", tmp_path), count=3))
    assert {x.source for x in found} == {"RTVLM"}


def test_an_interrupted_run_goes_on_with_the_pictures_it_has(tmp_path: Path) -> None:
    wanted = data(source("t", table(tmp_path / "t.jsonl", 6)), count=6)
    whole, _ = drawn(tmp_path / "whole", wanted)
    images = tmp_path / "stopped/images"

    class Killed(Exception):
        pass

    def kill(stage: str, done: int, total: int) -> None:
        raise Killed

    with pytest.raises(Killed), show_on(kill):
        instructions_of(wanted, 0, images)
    there = {path: path.stat().st_mtime_ns for path in images.iterdir()}
    first = next(iter(there))
    first.write_bytes(b"stopped")
    assert there
    assert not (tmp_path / "stopped/sampling.json").exists()
    assert drawn(tmp_path / "stopped", wanted)[0] == whole
    assert all(path.stat().st_mtime_ns == when for path, when in there.items() if path != first)
    one, other = ({path.name: path.read_bytes() for path in at.iterdir()} for at in (images, tmp_path / "whole/images"))
    assert one == other


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    wanted = data(source("t", table(tmp_path / "t.jsonl", 4)), count=4)
    with show_on(lambda *what: told.append(what)):
        instructions_of(wanted, 0, tmp_path / "run/images")
    assert told[-1] == ("instructions", 4, 4)


def test_broken_and_damaged_pictures_are_counted_and_others_drawn_in_their_place(tmp_path: Path) -> None:
    path = table(tmp_path / "t.jsonl", 8)
    for number in range(3):
        write(tmp_path / f"t-{number}.jpg", photo(number)[:200] if number else b"<svg/>")
    found, record = drawn(tmp_path / "run", data(source("t", path), count=5))
    assert len(found) == 5
    found, record = drawn(tmp_path / "all", data(source("t", path), count=8))
    assert (len(found), record["t"]["filtered"], record["t"]["short"]) == (5, {"unreadable picture": 3}, 3)


def test_a_damaged_member_of_a_zip_is_counted(tmp_path: Path) -> None:
    content = photo(1)
    path = tmp_path / "i.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.jpg", content)
        archive.writestr("b.jpg", photo(2))
    raw = bytearray(path.read_bytes())
    raw[60:80] = b"\xff" * 20
    path.write_bytes(raw)
    rows = lines(tmp_path / "t.jsonl", [{"image": name, "prompt": "Why?"} for name in ("a.jpg", "b.jpg")])
    found, record = drawn(tmp_path / "run", data(source("t", rows, images=str(path)), count=2))
    assert (len(found), record["t"]["filtered"]) == (1, {"unreadable picture": 1})


def test_counts_that_do_not_fit_are_one_line(tmp_path: Path) -> None:
    path = str(table(tmp_path / "t.jsonl", 3))
    for count in (2, 4):
        with pytest.raises(DataError, match=rf"counts of the sources are 3 in all, and instructions = {count}"):
            drawn(tmp_path / "run", data(InstructionSource(name="t", path=path, count=3), count=count))
    with pytest.raises(DataError, match="two sources are named 't'"):
        drawn(
            tmp_path / "run",
            data(InstructionSource(name="t", path=path), InstructionSource(name="t", path=path), count=3),
        )


def test_nothing_drawn_is_an_error_that_says_why(tmp_path: Path) -> None:
    path = lines(tmp_path / "t.jsonl", [{"image": "gone.jpg", "prompt": "Why?"}])
    with pytest.raises(DataError, match=r"no instruction could be drawn \(t: 0 candidates, 1 missing picture\)"):
        drawn(tmp_path / "run", data(source("t", path), count=1))
