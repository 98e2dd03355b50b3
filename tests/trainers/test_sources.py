"""Sources of instructions: every layout is read, and nothing that a row says leads out of its data."""

import base64
import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from support.errors import DataError, RecipeError
from tests.trainers.source_files import lines, photo, read, talk, write, zipped
from trainers.config.recipe import find_recipe
from trainers.vlfeedback import sources
from trainers.vlfeedback.layouts import LAYOUTS
from trainers.vlfeedback.sources import declared


def test_the_nine_sources_add_up_to_the_published_dataset() -> None:
    counts = {name: one.published for name, one in declared().items()}
    assert sum(count for name, count in counts.items() if name != "RTVLM") == 80_258
    assert len(counts) == 10
    assert all(one.layout in LAYOUTS and one.licence and one.site and one.files for one in declared().values())


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
    turns = [[{"from": "user", "value": f"Question {n}?"}, {"from": "gpt", "value": "Answer"}] for n in range(2)]
    rows = [{"image_id": 2337701, "conversations": [{"content": both} for both in turns]}]
    archive = zipped(tmp_path / "data/svit.zip", {"svit.json": json.dumps(rows).encode()})
    items, _ = read(name="SVIT", path=str(archive), images=str(tmp_path))
    assert [one.prompt for one in items] == ["Question 0?", "Question 1?"]
    assert items[0].picture.read() == photo(2)


def test_llavar_reads_its_pictures_from_its_zip(tmp_path: Path) -> None:
    zipped(tmp_path / "finetune.zip", {"finetune/001.jpg": photo(3)})
    rows = [talk("1", "001.jpg", "What does it say?\n<image>", "STOP")]
    rows.append(talk("2", "000000000042.jpg", "From LLaVA?", "Yes"))
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
    misspelt = {{"conversations": "conversatons"}.get(key, key): value for key, value in row.items()}
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
    head = "Figure_path,Question,Answer, Choice A,Choice B,Choice C,Choice D,Answer_label"
    cells = "PMC1_F1.jpg,What is the uptake?,Focal, A:Diffuse ,B: Focal,C:None,D:Unknown,B"
    (tmp_path / "train.csv").write_text(f"{head}\n{cells}\n")
    items, _ = read(name="PMC-VQA", path=str(tmp_path))
    assert [one.prompt for one in items] == ["What is the uptake?\nA: Diffuse\nB: Focal\nC: None\nD: Unknown"]


def test_m3it_joins_instruction_and_inputs_and_reads_its_base64_later(tmp_path: Path) -> None:
    folder = tmp_path / "data/vqa/coco"
    text = [base64.b64encode(photo(number)).decode() for number in (8, 9)]
    write(folder / "instructions.json", ["Look and answer."])
    rows: list[dict[str, Any]] = [
        {"instruction": "Answer.", "inputs": "Who?", "outputs": "x", "image_base64_str": [text[0]]},
        {"question": "Where?", "answer": "x", "image_base64_str": text[1]},
        {"instruction": "Compare.", "inputs": "", "outputs": "x", "image_base64_str": text},
    ]
    lines(folder / "train.jsonl", rows)
    items, left = read(name="M3IT", path=str(tmp_path))
    assert [one.prompt for one in items] == ["Answer.\nWho?", "Look and answer.\nWhere?"]
    assert [one.picture.read() for one in items] == [photo(8), photo(9)]
    assert left == {"several pictures": 1}


def test_pca_eval_lists_the_actions(tmp_path: Path) -> None:
    folder = tmp_path / "Domestic Robot"
    write(folder / "images/FloorPlan1.png", photo(10, "PNG"))
    row = {"index": 0, "image": "FloorPlan1.png", "question": "fry eggs", "actions": ["Wait.", "Go."], "reason": "r"}
    write(folder / "meta_data.json", [row])
    items, _ = read(name="PCA-EVAL", path=str(tmp_path))
    assert [one.prompt for one in items] == ["fry eggs\nWhich action comes next?\n(A) Wait.\n(B) Go."]


def test_rtvlm_keeps_the_pictures_of_its_subsets_apart_and_leaves_out_a_model_s_answers(tmp_path: Path) -> None:
    zipped(tmp_path / "data/Jailbreak/img/img.zip", {"JOHN.jpg": photo(11)})
    row = {"index": "JOHN", "instruction": "Follow the image.", "refused_to_answer": "x"}
    lines(tmp_path / "data/Jailbreak/jailbreak.jsonl", [row])
    lines(tmp_path / "data/Jailbreak/GPT4v.jsonl", [{"index": "JOHN", "question": "Not this."}])
    for subset, number in (("Harmful", 12), ("Captcha", 13)):
        zipped(tmp_path / f"data/{subset}/img/img.zip", {"img/0.jpg": photo(number)})
        lines(tmp_path / f"data/{subset}/{subset.lower()}.jsonl", [{"id": 0, "questions": f"Ask {subset}?"}])
    items, _ = read(name="RTVLM", path=str(tmp_path))
    found = {one.prompt: one.picture.read() for one in items}
    assert found == {"Follow the image.": photo(11), "Ask Harmful?": photo(12), "Ask Captcha?": photo(13)}


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
    (tmp_path / "mine.tsv").write_text("bild\tfrage\na.jpg\tWas?\n")
    items, _ = read(name=str(tmp_path / "mine.tsv"), prompt_column="frage", image_column="bild")
    assert [one.prompt for one in items] == ["Was?"]


def test_chat_messages_are_read(tmp_path: Path) -> None:
    write(tmp_path / "a.jpg", photo(1))
    user = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Why?"}]}
    row = {"images": ["a.jpg"], "messages": [{"role": "system", "content": "Be kind."}, user]}
    items, _ = read(name=str(lines(tmp_path / "x.jsonl", [row])))
    assert [one.prompt for one in items] == ["Why?"]


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


def test_paths_do_not_leave_the_folder(tmp_path: Path) -> None:
    secret = write(tmp_path / "secret.jpg", photo(1))
    folder = tmp_path / "data"
    write(folder / "fine.jpg", photo(2))
    os.symlink(secret, folder / "link.jpg")
    names = ["../secret.jpg", str(secret), "link.jpg", "a/../../secret.jpg", "http://example.org/a.jpg"]
    names += ["x" * 300, "nul\0.jpg", "fine.jpg"]
    path = lines(folder / "x.jsonl", [{"image": name, "prompt": "Why?"} for name in names])
    for images in (None, str(folder)):
        items, left = read(name=str(path), images=images)
        assert [one.picture.name for one in items] == ["fine.jpg"]
        assert left == {"path outside the folder": 5, "picture is a URL": 1, "missing picture": 1}


def test_a_name_that_two_pictures_have_is_not_guessed(tmp_path: Path) -> None:
    for number, folder in enumerate(("a", "b")):
        write(tmp_path / folder / "1.jpg", photo(number))
    names = ("1.jpg", "1", "x/b/1.jpg", "b/1", "c/1.jpg")
    path = lines(tmp_path / "t.jsonl", [{"image": name, "prompt": "Which?"} for name in names])
    items, left = read(name=str(path), images=str(tmp_path))
    assert [item.picture.file for item in items] == [tmp_path / "b" / "1.jpg"] * 2
    assert left == {"ambiguous picture": 2, "missing picture": 1}


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


def test_a_recipe_names_its_sources(tmp_path: Path) -> None:
    text = (Path(sources.__file__).parents[1] / "recipes/scenes-demo.toml").read_text()
    plain = write(tmp_path / "a.toml", text.encode())
    more = '\n[[data.sources]]\nname = "RTVLM"\npath = "rt"\ncount = 3\n\n[data.filters]\nmax_words = 40\n'
    found = find_recipe(str(write(tmp_path / "b.toml", (text + more).encode())))
    assert found.data is not None
    assert (found.data.sources[0].name, found.data.filters.max_words) == ("RTVLM", 40)
    assert find_recipe(str(plain)).digest == find_recipe("scenes-demo").digest != found.digest
    for line, message in (("waight = 1", "did you mean 'weight'"), ("weight = 1", "weight")):
        wrong = text + more.replace("count = 3", f"count = 3\n{line}")
        with pytest.raises(RecipeError, match=message):
            find_recipe(str(write(tmp_path / "c.toml", wrong.encode())))
