"""Sources of instructions: every layout is read, and what is drawn of them is fair, without duplicates and the same
each time."""

import base64
import csv
import io
import json
import os
import random
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from support import records
from support.errors import DataError, RecipeError
from support.images import decode
from support.progress import show_on
from trainers.config.data import Data, Filters, InstructionSource, PoolModel
from trainers.config.recipe import find_recipe
from trainers.vlfeedback import sources
from trainers.vlfeedback.instructions import Instruction, scenes_instructions
from trainers.vlfeedback.layouts import LAYOUTS
from trainers.vlfeedback.sampling import candidates, instructions_of, order, shares
from trainers.vlfeedback.sources import Item, declared, open_source

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
    for number in range(start, start + count):
        write(path.parent / f"{path.stem}-{number}.jpg", photo(number))
    return lines(
        path,
        [
            {"id": n, "image": f"{path.stem}-{n}.jpg", "question": f"What is at {n}?"}
            for n in range(start, start + count)
        ],
    )


# What is declared.


def test_the_nine_sources_add_up_to_the_published_dataset() -> None:
    counts = {name: one.published for name, one in declared().items()}
    assert sum(count for name, count in counts.items() if name != "RTVLM") == 80_258
    assert len(counts) == 10
    assert all(one.layout in LAYOUTS and one.licence and one.site and one.files for one in declared().values())


# The layouts of the ten.


def test_llava_asks_what_the_human_says_first(tmp_path: Path) -> None:
    write(tmp_path / "coco/COCO_train2014_000000000007.jpg", photo(1))
    rows = [
        talk("7", "000000000007.jpg", "<image>\nWhat is it?", "A cat.", "Which colour?", "Black."),
        talk("8", None, "No picture", "x"),
    ]
    items, left = read(name="LLaVA", path=str(write(tmp_path / "llava.json", rows)), images=str(tmp_path / "coco"))
    assert [(one.prompt, one.origin) for one in items] == [("What is it?", "7")]
    assert left == {"no picture": 1}
    assert items[0].picture.read() == photo(1)


def test_svit_asks_once_for_each_of_its_conversations(tmp_path: Path) -> None:
    write(tmp_path / "VG_100K_2/2337701.jpg", photo(2))
    asked = [
        {"content": [{"from": "user", "value": f"Question {n}?"}, {"from": "gpt", "value": "Answer"}]} for n in range(2)
    ]
    archive = zipped(
        tmp_path / "data/svit.zip", {"svit.json": json.dumps([{"image_id": 2337701, "conversations": asked}]).encode()}
    )
    items, _ = read(name="SVIT", path=str(archive), images=str(tmp_path))
    assert [one.prompt for one in items] == ["Question 0?", "Question 1?"]
    assert items[0].picture.read() == photo(2)


def test_llavar_reads_its_pictures_from_its_zip(tmp_path: Path) -> None:
    zipped(tmp_path / "finetune.zip", {"finetune/001.jpg": photo(3)})
    rows = [
        talk("1", "001.jpg", "What does it say?\n<image>", "STOP"),
        talk("2", "000000000042.jpg", "From LLaVA?", "Yes"),
    ]
    write(tmp_path / "llava_instruct_150k_llavar_16k.json", rows)
    items, left = read(name="LLaVAR", path=str(tmp_path))
    assert [one.prompt for one in items] == ["What does it say?"]
    assert items[0].picture.open().size == (64, 64)
    assert left == {"missing picture": 1}


def test_lrv_names_pictures_of_visual_genome_by_number(tmp_path: Path) -> None:
    write(tmp_path / "vg/VG_100K/2392588.jpg", photo(4))
    rows = [{"image_id": "2392588", "question": "Can you see a blue teapot?", "answer": "No.", "task": "negative"}]
    items, _ = read(name="LRV", path=str(write(tmp_path / "filter_cap.json", rows)), images=str(tmp_path / "vg"))
    assert [one.prompt for one in items] == ["Can you see a blue teapot?"]


def test_llava_med_is_read_also_with_its_misspelt_column(tmp_path: Path) -> None:
    write(tmp_path / "images/28433554_F1.jpg", photo(5))
    row = talk("28433554_F1", "28433554_F1.jpg", "What does the scan show?\n<image>", "A mass.")
    misspelt = {
        **{key: value for key, value in row.items() if key != "conversations"},
        "conversatons": row["conversations"],
    }
    write(tmp_path / "llava_med_instruct_60k.json", [row, misspelt])
    items, _ = read(name="LLaVA-Med", path=str(tmp_path))
    assert [one.prompt for one in items] == ["What does the scan show?"] * 2


@pytest.mark.parametrize("row", ({"image": "a.jpg", "question": "Why?"}, talk("1", "a.jpg", "Why?", "So.")))
def test_comvint_is_read_in_either_layout(tmp_path: Path, row: Mapping[str, Any]) -> None:
    write(tmp_path / "images/a.jpg", photo(6))
    write(tmp_path / "comvint.json", [row])
    assert [one.prompt for one in read(name="ComVint", path=str(tmp_path))[0]] == ["Why?"]


def test_pmc_vqa_lists_its_choices(tmp_path: Path) -> None:
    zipped(tmp_path / "images.zip", {"images/PMC1_F1.jpg": photo(7)})
    with (tmp_path / "train.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["Figure_path", "Question", "Answer", " Choice A", "Choice B", "Choice C", "Choice D", "Answer_label"]
        )
        writer.writerow(
            ["PMC1_F1.jpg", "What is the uptake?", "Focal", " A:Diffuse ", "B: Focal", "C:None", "D:Unknown", "B"]
        )
    items, _ = read(name="PMC-VQA", path=str(tmp_path))
    assert [one.prompt for one in items] == ["What is the uptake?\nA: Diffuse\nB: Focal\nC: None\nD: Unknown"]


def test_m3it_joins_instruction_and_inputs_and_reads_its_base64_later(tmp_path: Path) -> None:
    folder = tmp_path / "data/vqa/coco"
    text = [base64.b64encode(photo(number)).decode() for number in (8, 9)]
    write(folder / "instructions.json", ["Look and answer."])
    lines(
        folder / "train.jsonl",
        [
            {"instruction": "Answer.", "inputs": "Who?", "outputs": "x", "image_base64_str": [text[0]]},
            {"question": "Where?", "answer": "x", "image_base64_str": text[1]},
            {"instruction": "Compare.", "inputs": "", "outputs": "x", "image_base64_str": text},
        ],
    )
    items, left = read(name="M3IT", path=str(tmp_path))
    assert [one.prompt for one in items] == ["Answer.\nWho?", "Look and answer.\nWhere?"]
    assert [one.picture.read() for one in items] == [photo(8), photo(9)]
    assert left == {"several pictures": 1}


def test_pca_eval_lists_the_actions(tmp_path: Path) -> None:
    folder = tmp_path / "Domestic Robot"
    write(folder / "images/FloorPlan1.png", photo(10, "PNG"))
    write(
        folder / "meta_data.json",
        [{"index": 0, "image": "FloorPlan1.png", "question": "fry eggs", "actions": ["Wait.", "Go."], "reason": "r"}],
    )
    items, _ = read(name="PCA-EVAL", path=str(tmp_path))
    assert [one.prompt for one in items] == ["fry eggs\nWhich action comes next?\n(A) Wait.\n(B) Go."]


def test_rtvlm_keeps_the_pictures_of_its_subsets_apart_and_leaves_out_a_model_s_answers(tmp_path: Path) -> None:
    zipped(tmp_path / "data/Jailbreak/img/img.zip", {"JOHN.jpg": photo(11)})
    lines(
        tmp_path / "data/Jailbreak/jailbreak.jsonl",
        [{"index": "JOHN", "instruction": "Follow the image.", "refused_to_answer": "x"}],
    )
    lines(tmp_path / "data/Jailbreak/GPT4v.jsonl", [{"index": "JOHN", "question": "Not this."}])
    for subset, number in (("Harmful", 12), ("Captcha", 13)):
        zipped(tmp_path / f"data/{subset}/img/img.zip", {"img/0.jpg": photo(number)})
        lines(tmp_path / f"data/{subset}/{subset.lower()}.jsonl", [{"id": 0, "questions": f"Ask {subset}?"}])
    items, _ = read(name="RTVLM", path=str(tmp_path))
    found = {one.prompt: one.picture.read() for one in items}
    assert found == {"Follow the image.": photo(11), "Ask Harmful?": photo(12), "Ask Captcha?": photo(13)}


# Any other source.


def test_a_folder_of_images_is_asked_fixed_prompts(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / f"deep/{number}.png", photo(number, "PNG"))
    items, _ = read(name=str(tmp_path), prompts=["Describe it.", "What is odd?"])
    assert Counter(one.prompt for one in items) == {"Describe it.": 3, "What is odd?": 3}


def test_a_folder_of_images_may_hold_its_prompts(tmp_path: Path) -> None:
    one, two, three = tmp_path / "one", tmp_path / "two", tmp_path / "three"
    for folder in (one, two, three):
        write(folder / "a.jpg", photo(1))
        write(folder / "b.jpg", photo(2))
    write(one / "prompts.txt", b"First?\n\nSecond?\n")
    write(two / "a.txt", b"Only a?")
    lines(three / "metadata.jsonl", [{"file_name": "b.jpg", "prompt": "Only b?"}])
    assert sorted(item.prompt for item in read(name=str(one))[0]) == ["First?", "First?", "Second?", "Second?"]
    assert ([item.prompt for item in read(name=str(two))[0]], read(name=str(two))[1]) == (["Only a?"], {"no prompt": 1})
    assert [item.prompt for item in read(name="mine", path=str(three))[0]] == ["Only b?"]


def test_columns_of_any_table_can_be_named(tmp_path: Path) -> None:
    write(tmp_path / "a.jpg", photo(1))
    with (tmp_path / "mine.tsv").open("w") as file:
        file.write("bild\tfrage\na.jpg\tWas?\n")
    items, _ = read(name=str(tmp_path / "mine.tsv"), prompt_column="frage", image_column="bild")
    assert [one.prompt for one in items] == ["Was?"]


def test_chat_messages_are_read(tmp_path: Path) -> None:
    write(tmp_path / "a.jpg", photo(1))
    said = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Why?"}]},
    ]
    assert [
        one.prompt for one in read(name=str(lines(tmp_path / "x.jsonl", [{"images": ["a.jpg"], "messages": said}])))[0]
    ] == ["Why?"]


@pytest.mark.parametrize("kind", ("bytes", "path", "struct"))
def test_parquet_is_read_with_pictures_in_it_or_beside_it(tmp_path: Path, kind: str) -> None:
    import pyarrow
    import pyarrow.parquet

    cells: list[Any] = [photo(number) for number in range(3)]
    if kind == "struct":
        cells = [{"bytes": cell, "path": None} for cell in cells]
    if kind == "path":
        cells = [write(tmp_path / f"{number}.jpg", cell).name for number, cell in enumerate(cells)]
    pyarrow.parquet.write_table(pyarrow.table({"image": cells, "prompt": ["A?", "B?", "C?"]}), tmp_path / "x.parquet")
    items, _ = read(name=str(tmp_path / "x.parquet"))
    assert [(one.prompt, one.picture.read()) for one in items] == [("A?", photo(0)), ("B?", photo(1)), ("C?", photo(2))]


def test_a_json_list_longer_than_what_is_held_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "CHUNK", 64)
    write(tmp_path / "a.jpg", photo(1))
    rows = [{"image": "a.jpg", "prompt": f"[{n}] " + "é]{," * (n * 20)} for n in range(9)]
    path = write(tmp_path / "x.json", json.dumps(rows, indent=1, ensure_ascii=False).encode())
    assert [one.prompt for one in read(name=str(path))[0]] == [row["prompt"].strip() for row in rows]


@pytest.mark.parametrize("cut", (1, 3, 40))
def test_a_torn_json_list_is_an_error(tmp_path: Path, cut: int) -> None:
    text = json.dumps([{"image": "a.jpg", "prompt": "Why?"}] * 3).encode()
    with pytest.raises(DataError, match=r"x\.json"):
        read(name=str(write(tmp_path / "x.json", text[:-cut])))


def test_a_hub_dataset_is_read_by_split_and_its_pictures_only_when_looked_at(tmp_path: Path) -> None:
    from datasets import Dataset, Features, Image, Value

    cells = [{"bytes": cell, "path": None} for cell in (photo(1), b"broken")]
    features = Features({"photo": Image(), "question": Value("string")})
    (tmp_path / "hub").mkdir()
    Dataset.from_dict({"photo": cells, "question": ["Why?", "Who?"]}, features).to_parquet(
        tmp_path / "hub/validation-0.parquet"
    )
    items, _ = read(name=f"hub:{tmp_path / 'hub'}", split="validation", image_column="photo")
    assert [(one.prompt, one.picture.read()) for one in items] == [("Why?", photo(1)), ("Who?", b"broken")]
    with pytest.raises(DataError, match="split 'train'"):
        read(name=f"hub:{tmp_path / 'hub'}")


# What is not trusted.


def test_paths_do_not_leave_the_folder(tmp_path: Path) -> None:
    secret = write(tmp_path / "secret.jpg", photo(1))
    folder = tmp_path / "data"
    write(folder / "fine.jpg", photo(2))
    os.symlink(secret, folder / "link.jpg")
    names = [
        "../secret.jpg",
        str(secret),
        "link.jpg",
        "a/../../secret.jpg",
        "http://example.org/a.jpg",
        "x" * 300,
        "nul\0.jpg",
        "fine.jpg",
    ]
    path = lines(folder / "x.jsonl", [{"image": name, "prompt": "Why?"} for name in names])
    for images in (None, str(folder)):
        items, left = read(name=str(path), images=images)
        assert [one.picture.name for one in items] == ["fine.jpg"]
        assert left == {"path outside the folder": 5, "picture is a URL": 1, "missing picture": 1}


def test_a_name_that_two_pictures_have_is_not_guessed(tmp_path: Path) -> None:
    for number, folder in enumerate(("a", "b")):
        write(tmp_path / folder / "1.jpg", photo(number))
    path = lines(
        tmp_path / "t.jsonl",
        [
            {"image": "1.jpg", "prompt": "Which?"},
            {"image": "x/b/1.jpg", "prompt": "No."},
            {"image": "b/1", "prompt": "Why?"},
        ],
    )
    items, left = read(name=str(path), images=str(tmp_path))
    assert items == []
    assert left == {"ambiguous picture": 3}


def test_broken_and_damaged_pictures_are_counted_and_others_drawn_in_their_place(tmp_path: Path) -> None:
    path = table(tmp_path / "t.jsonl", 8)
    for number in range(3):
        write(tmp_path / f"t-{number}.jpg", photo(number)[:200] if number else b"<svg/>")
    found, record = drawn(tmp_path / "run", data(InstructionSource(name="t", path=str(path)), count=5))
    assert len(found) == 5
    found, record = drawn(tmp_path / "all", data(InstructionSource(name="t", path=str(path)), count=8))
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
    found, record = drawn(
        tmp_path / "run", data(InstructionSource(name="t", path=str(rows), images=str(path)), count=2)
    )
    assert (len(found), record["t"]["filtered"]) == (1, {"unreadable picture": 1})


# Drawing.


def test_shares_add_up_by_largest_remainder() -> None:
    assert shares(1000, {"SVIT": 22823, "RTVLM": 2100}) == {"SVIT": 916, "RTVLM": 84}
    assert shares(2, {"a": 1, "b": 1, "c": 1}) == {"a": 1, "b": 1, "c": 0}
    published = {name: one.published for name, one in declared().items() if name != "RTVLM"}
    assert shares(80_258, published) == published


def test_drawing_depends_on_the_seed_and_not_on_the_order_of_the_file(tmp_path: Path) -> None:
    path = table(tmp_path / "t.jsonl", 40)
    source = InstructionSource(name="t", path=str(path))
    one, record = drawn(tmp_path / "one", data(source, count=10), seed=1)
    assert (record["t"]["available"], record["t"]["drawn"]) == (40, 10)
    other = drawn(tmp_path / "other", data(source, count=10), seed=2)[0]
    assert {x.id for x in one} != {x.id for x in other}
    text = path.read_text().splitlines()
    random.Random(0).shuffle(text)
    path.write_text("\n".join(text) + "\n")
    assert drawn(tmp_path / "shuffled", data(source, count=10), seed=1)[0] == one


def test_more_candidates_than_are_kept_in_memory_are_read_in_the_same_order(tmp_path: Path) -> None:
    from trainers.vlfeedback import sampling

    source = InstructionSource(name="t", path=str(table(tmp_path / "t.jsonl", 30)))

    def found(reserve: int) -> list[Item]:
        part = sampling._Part(source=source, opened=open_source(source), weight=1)
        items = list(candidates(part, 3, Filters(), reserve))
        assert (part.rows, part.available) == (30, 30)
        return items

    assert found(4) == found(100)
    assert [order(3, "t", item) for item in found(4)] == sorted(order(3, "t", item) for item in found(4))


def test_weights_counts_and_the_rest_of_a_short_source(tmp_path: Path) -> None:
    parts = [
        InstructionSource(name="big", path=str(table(tmp_path / "big.jsonl", 30)), weight=1),
        InstructionSource(name="short", path=str(table(tmp_path / "short.jsonl", 4, 100)), weight=2),
        InstructionSource(name="fixed", path=str(table(tmp_path / "fixed.jsonl", 9, 200)), count=3),
    ]
    found, record = drawn(tmp_path / "run", data(*parts, count=21))
    assert Counter(x.source for x in found) == {"big": 14, "short": 4, "fixed": 3}
    assert [
        (record[name]["share"], record[name]["short"], record[name]["from_others"])
        for name in ("big", "short", "fixed")
    ] == [
        (6, 0, 8),
        (12, 8, 0),
        (3, 0, 0),
    ]


def test_declared_sources_are_weighted_as_vlfeedback_was(tmp_path: Path) -> None:
    for name, first in (("llava", 0), ("lrv", 300)):
        for number in range(first, first + 30):
            write(tmp_path / name / f"{number}.jpg", photo(number))
    write(tmp_path / "llava/l.json", [talk(str(n), f"{n}.jpg", f"What is {n}?", "x") for n in range(30)])
    write(
        tmp_path / "lrv/l.json",
        [{"image_id": str(n), "question": f"Is there {n}?", "answer": "x"} for n in range(300, 330)],
    )
    pair = (
        InstructionSource(name="LLaVA", path=str(tmp_path / "llava/l.json"), images=str(tmp_path / "llava")),
        InstructionSource(name="LRV", path=str(tmp_path / "lrv")),
    )
    found, _ = drawn(tmp_path / "run", data(*pair, count=26))
    assert Counter(x.source for x in found) == {"LLaVA": 16, "LRV": 10}  # 19,614 : 12,357
    with pytest.raises(DataError, match="mine: needs a weight"):
        drawn(
            tmp_path / "x",
            data(*pair, InstructionSource(name="mine", path=str(table(tmp_path / "m/m.jsonl", 1))), count=3),
        )


def test_the_scenes_give_what_they_give_alone_and_what_others_lack(tmp_path: Path) -> None:
    short = InstructionSource(name="t", path=str(table(tmp_path / "t.jsonl", 2)))
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
    found, record = drawn(tmp_path / "run", data(InstructionSource(name="t", path=str(path)), count=5, filters=filters))
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
    rows = [
        {"image": f"{name}.jpg", "prompt": prompt}
        for name, prompt in zip("abcd", ("What is it?", "what is it", "What is it?", "What is it?"), strict=True)
    ]
    source = InstructionSource(name="t", path=str(lines(copies / "t.jsonl", rows)))
    found, record = drawn(tmp_path / "near", data(source, count=4))
    assert (len(found), sum(record["t"]["filtered"].values())) == (2, 2)
    assert set(record["t"]["filtered"]) <= {"duplicate", "near-duplicate"}
    found, record = drawn(tmp_path / "exact", data(source, count=4, filters=Filters(near=False)))
    assert (len(found), record["t"]["filtered"]) == (3, {"duplicate": 1})


def test_how_often_one_picture_or_one_wording_is_taken_can_be_limited(copies: Path, tmp_path: Path) -> None:
    source = InstructionSource(name="t", path=str(copies), prompts=("What is it?", "Where is it?", "Why?"))
    found, record = drawn(tmp_path / "free", data(source, count=12))
    assert len(found) == 6
    found, record = drawn(tmp_path / "images", data(source, count=12, filters=Filters(per_image=1)))
    assert (len(found), len({x.image for x in found})) == (2, 2)
    assert record["t"]["filtered"]["duplicate image"] >= 4
    found, record = drawn(tmp_path / "prompts", data(source, count=12, filters=Filters(per_prompt=1)))
    assert sorted(x.prompt for x in found) == ["What is it?", "Where is it?", "Why?"]
    assert record["t"]["filtered"]["duplicate prompt"] >= 1


def test_duplicates_are_found_between_sources(tmp_path: Path) -> None:
    one, two = table(tmp_path / "one/t.jsonl", 5), table(tmp_path / "two/t.jsonl", 5)
    found, record = drawn(
        tmp_path / "run",
        data(InstructionSource(name="one", path=str(one)), InstructionSource(name="two", path=str(two)), count=10),
    )
    assert (len(found), record["two"]["filtered"]) == (5, {"duplicate": 5})


def test_pictures_keep_their_bytes_under_safe_names_and_ids_are_unique(tmp_path: Path) -> None:
    names = ["weird name;rm -rf.jpg", "b/c.png"]
    for number, name in enumerate(names):
        write(tmp_path / name, photo(number, ("JPEG", "PNG")[number]))
    path = lines(
        tmp_path / "t.jsonl",
        [{"id": "same", "image": name, "prompt": text} for name in names for text in ("Why?", "Who?")],
    )
    found, _ = drawn(tmp_path / "run", data(InstructionSource(name="t", path=str(path)), count=4))
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
    found, _ = drawn(tmp_path / "run", data(InstructionSource(name="RTVLM", path=str(tmp_path)), count=3))
    assert {x.source for x in found} == {"RTVLM"}


def test_an_interrupted_run_goes_on_with_the_pictures_it_has(tmp_path: Path) -> None:
    wanted = data(InstructionSource(name="t", path=str(table(tmp_path / "t.jsonl", 6))), count=6)
    whole, _ = drawn(tmp_path / "whole", wanted)
    images = tmp_path / "torn/images"

    class Killed(Exception):
        pass

    def kill(stage: str, done: int, total: int) -> None:
        raise Killed

    with pytest.raises(Killed), show_on(kill):
        instructions_of(wanted, 0, images)
    there = {path: path.stat().st_mtime_ns for path in images.iterdir()}
    first = next(iter(there))
    first.write_bytes(b"torn")
    assert there
    assert not (tmp_path / "torn/sampling.json").exists()
    assert drawn(tmp_path / "torn", wanted)[0] == whole
    assert all(path.stat().st_mtime_ns == when for path, when in there.items() if path != first)
    assert {path.name: path.read_bytes() for path in images.iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "whole/images").iterdir()
    }


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    wanted = data(InstructionSource(name="t", path=str(table(tmp_path / "t.jsonl", 4))), count=4)
    with show_on(lambda *what: told.append(what)):
        instructions_of(wanted, 0, tmp_path / "run/images")
    assert told[-1] == ("instructions", 4, 4)


# Mistakes.


@pytest.mark.parametrize(
    ("source", "line"),
    (
        ({"name": "LLaVa-med2"}, r"no source 'LLaVa-med2' \(did you mean 'LLaVA-Med'\?\); known: SVIT, "),
        ({"name": "mine", "path": "/nowhere.jsonl"}, r"mine: no file or folder '/nowhere.jsonl'"),
        ({"name": "LRV"}, r"LRV: .*give path = a copy of github.com/FuxiaoLiu.* and images = .*Visual Genome"),
        ({"name": "LLaVA"}, r"LLaVA: .*give images = the folder or zip with MS COCO"),
    ),
)
def test_a_source_that_is_not_there_is_one_clear_line(source: dict[str, Any], line: str) -> None:
    with pytest.raises(DataError, match=line) as caught:
        read(**source)
    assert "\n" not in str(caught.value)


def test_a_table_that_does_not_fit_is_one_line_with_its_columns(tmp_path: Path) -> None:
    write(tmp_path / "a.jpg", photo(1))
    no_prompt = lines(tmp_path / "one.jsonl", [{"image": "a.jpg", "caption": "A cat"}])
    no_image = lines(tmp_path / "two.jsonl", [{"prompt": "Why?", "bild": "a.jpg"}])
    with pytest.raises(DataError, match=r"no row has a prompt: its columns are image, caption; give prompt_column"):
        read(name=str(no_prompt))
    with pytest.raises(DataError, match=r"no row has a picture: its columns are prompt, bild; give image_column"):
        read(name=str(no_image))
    with pytest.raises(DataError, match=r"no column 'foto'; it has prompt, bild"):
        read(name=str(no_image), image_column="foto")
    with pytest.raises(DataError, match=r"broken.jsonl, line 2: not JSON"):
        read(name=str(write(tmp_path / "broken.jsonl", b'{"prompt": "a", "image": "a.jpg"}\n{"prom\n')))
    with pytest.raises(DataError, match=r"asks nothing: give prompts"):
        read(name=str(write(tmp_path / "only/a.jpg", photo(1)).parent))


@pytest.mark.parametrize(
    "source", ({"name": "hub:nobody/nothing@abc"}, {"name": "RTVLM"}, {"name": "mine", "path": "hub:nobody/nothing"})
)
def test_a_hub_that_is_out_of_reach_is_one_line(
    source: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets.config
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(DataError, match=source["name"]) as caught:
        read(**source)
    assert "\n" not in str(caught.value)


def test_a_hub_snapshot_is_read_though_it_is_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = tmp_path / "datasets--MMInstruction--RedTeamingVLM"
    snapshot = repository / "snapshots" / ("0" * 40)
    blobs = {
        "data/Captcha/captcha.jsonl": json.dumps({"id": 0, "instruction": "Read it."}).encode() + b"\n",
        "data/Captcha/img/0.jpg": photo(1),
    }
    for number, (name, content) in enumerate(blobs.items()):
        blob = write(repository / "blobs" / str(number), content)
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        os.symlink(blob, snapshot / name)
    write(repository / "refs/main", b"0" * 40)
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    items, _ = read(name="RTVLM")
    assert [(one.prompt, one.picture.read()) for one in items] == [("Read it.", photo(1))]


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
        drawn(tmp_path / "run", data(InstructionSource(name="t", path=str(path)), count=1))


def test_a_recipe_names_its_sources(tmp_path: Path) -> None:
    text = (Path(sources.__file__).parents[1] / "recipes/scenes-demo.toml").read_text()
    plain = write(tmp_path / "a.toml", text.encode())
    more = '\n[[data.sources]]\nname = "RTVLM"\npath = "rt"\ncount = 3\n\n[data.filters]\nmax_words = 40\n'
    found = find_recipe(str(write(tmp_path / "b.toml", (text + more).encode())))
    assert found.data is not None
    assert (found.data.sources[0].name, found.data.filters.max_words) == ("RTVLM", 40)
    assert find_recipe(str(plain)).digest == find_recipe("scenes-demo").digest != found.digest
    for wrong, hint in (("count", "waight = 1"), ("weight", "weight = 1")):
        with pytest.raises(RecipeError, match=wrong if wrong == "weight" else "did you mean 'weight'"):
            find_recipe(
                str(write(tmp_path / "c.toml", (text + more.replace("count = 3", "count = 3\n" + hint)).encode()))
            )
