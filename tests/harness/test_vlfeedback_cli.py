"""`harness vlfeedback`: from instructions to pairs as a user runs it, offline, in the scenes world."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from harness.cli import main as cli
from trainers.data.pair_formats import read_pairs
from trainers.data.vlfeedback_format import read_rows

HARNESS = [sys.executable, "-c", "from harness.cli.main import main; main()"]
BUILD = ["vlfeedback", "build", "--source", "scenes", "--pool", "scenes", "--judge", "scenes", "--rows", "24"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built") / "data"
    assert cli.run([*BUILD, "--out", str(out)]) == 0
    return out


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert cli.run([*arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_built_dataset_is_read_by_our_reader_and_by_datasets(built: Path, tmp_path: Path) -> None:
    from datasets import load_dataset

    rows = list(read_rows(built / "dataset" / "rows.parquet"))
    assert [(row.id, row.prompt) for row in rows] == [(row.id, row.prompt) for row in read_rows(built)]
    assert all(len(row.completions) == 4 and row.images[0].open().size > (0, 0) for row in rows)
    pairs = load_dataset(str(built / "dataset"), "pairs", split="train", cache_dir=str(tmp_path))
    ours = list(read_pairs(built / "pairs.jsonl"))
    assert len(pairs) == len(ours) > 0
    assert pairs[0]["images"][0].size == ours[0].images[0].open().size
    assert [turn["content"] for turn in pairs[0]["chosen"]] == [ours[0].chosen]


def test_the_same_command_again_asks_nobody(
    built: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("harness.datasets.pool.PoolModels.__call__", refuse)
    before = (built / "vlfeedback.jsonl").read_bytes()
    assert cli.run([*BUILD, "--out", str(built)]) == 0
    assert (built / "vlfeedback.jsonl").read_bytes() == before


def test_replies_without_a_rating_end_with_exit_code_4_also_when_called_again(
    server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.reply = lambda prompt: "I would rather not say."
    asked = ["--judge", "j", "--judge-url", server.url, "--ledger", str(tmp_path / "l.sqlite"), "--out", str(tmp_path)]
    for _ in range(2):
        assert cli.run([*BUILD[:-4], "--rows", "4", *asked]) == 4
        assert "4 of 4 instructions have no rating that could be read" in capsys.readouterr().err
    assert cli.run([*BUILD[:-4], "--rows", "4", *asked, "--max-failed", "1"]) == 0
    assert cli.run(["vlfeedback", "annotate", str(tmp_path), *asked[:-2]]) == 4


def test_another_rule_of_pairs_keeps_answers_and_ratings_and_another_pool_is_refused(
    built: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run([*BUILD, "--rule", "largest-gap", "--out", str(built)], capsys)
    again = run([*BUILD, "--out", str(built)], capsys)
    assert 0 < found["pairs"] < again["pairs"]
    assert cli.run([*BUILD[:-1], "30", "--out", str(built)]) == 2
    assert "other instructions" in capsys.readouterr().err


def test_pairs_are_counted_and_written(built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counts = run(["vlfeedback", "pairs", str(built), "--rule", "authors", "--out", str(tmp_path / "p.parquet")], capsys)
    assert counts["rows"] == 24
    assert counts["pairs"] + counts["ties"] + counts["skipped_non_numeric"] == 24 * 6
    written = list(read_pairs(tmp_path / "p.parquet"))
    assert len(written) == counts["pairs"]
    assert {(pair.row, pair.chosen_model, pair.rejected_model) for pair in written} == {
        (pair.row, pair.chosen_model, pair.rejected_model) for pair in read_pairs(built / "pairs.jsonl")
    }


def test_a_split_is_by_prompt(built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counts = run(["vlfeedback", "pairs", str(built), "--out", str(tmp_path / "p.jsonl"), "--test-share", "0.3"], capsys)
    train, test = (list(read_pairs(tmp_path / name)) for name in ("p.jsonl", "p-test.jsonl"))
    assert len(train) + len(test) == counts["pairs"]
    assert train
    assert test
    assert not {(p.prompt, p.images[0].name) for p in train} & {(p.prompt, p.images[0].name) for p in test}


def test_best_answers_are_written_for_sft(built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run(["vlfeedback", "pairs", str(built), "--best", "--out", str(tmp_path / "best.jsonl")], capsys)
    lines = [json.loads(line) for line in (tmp_path / "best.jsonl").read_text().splitlines()]
    assert found["answers"] == len(lines) == 24
    assert {"prompt", "completion", "images"} <= lines[0].keys()


def test_pairs_convert_to_other_formats_and_back(built: Path, tmp_path: Path) -> None:
    first = list(read_pairs(built / "pairs.jsonl"))
    for form, name in (("povid", "a.json"), ("sharegpt", "b.jsonl"), ("rlaif-v", "c.parquet"), ("rlhf-v", "d.jsonl")):
        assert cli.run(["vlfeedback", "convert", str(built / "pairs.jsonl"), str(tmp_path / name), "--to", form]) == 0
        back = list(read_pairs(tmp_path / name))
        assert [(p.prompt, p.chosen, p.rejected, p.row, p.chosen_model) for p in back] == [
            (p.prompt, p.chosen, p.rejected, p.row, p.chosen_model) for p in first
        ]


def test_statistics_stand_beside_the_published_ones(
    built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["vlfeedback", "stats", str(built), "--out", str(tmp_path / "report")]) == 0
    assert re.search(r"\| Helpfulness +\| +here \|", capsys.readouterr().out)
    assert {path.suffix for path in (tmp_path / "report").iterdir()} == {".md", ".png", ".svg"}


def test_a_row_that_shows_a_benchmarks_picture_is_found_and_dropped(
    built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from harness.evaluation.generate import load_tasks
    from support.images import ImageRef
    from tasks.registry import registry
    from trainers.data.rows import Row
    from trainers.data.vlfeedback_format import write_rows

    rows = list(read_rows(built))
    shown = tmp_path / "leaked.png"
    task = load_tasks(registry().expand(["scenes_chair"]))["scenes_chair"]
    task.doc_to_image(task.eval_docs[7])[0].save(shown)
    image = ImageRef(shown.name, shown)
    leaked = Row(index=24, id="leaked", prompt="what is it?", images=(image,), completions=rows[0].completions)
    write_rows([*rows, leaked], tmp_path / "with.parquet", embed_images=True)
    options = ["--tasks", "scenes_chair", "--fingerprints", str(tmp_path / "f.sqlite")]
    clean = run(["vlfeedback", "leaks", str(built), *options], capsys)
    assert clean["rows_with_image"] == {"scenes_chair": 0}
    options += ["--drop", str(tmp_path / "kept.parquet")]
    found = run(["vlfeedback", "leaks", str(tmp_path / "with.parquet"), *options], capsys)
    assert found["rows_with_image"] == {"scenes_chair": 1}
    assert [leak["row_id"] for leak in found["leaks"] if "same image" in leak["evidence"]] == ["leaked"]
    assert [row.id for row in read_rows(tmp_path / "kept.parquet")] == [row.id for row in rows]


def test_a_plan_loads_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    found = run(["vlfeedback", "build", "--pool", "paper", "--rows", "1200", "--plan"], capsys)
    assert len(found["members"]) == 12
    assert sum(member["rows"] for member in found["members"]) == 4800


@pytest.mark.parametrize(
    ("arguments", "said"),
    (
        (["pairs", "DATA", "--out", "x.parquet", "--rule", "authrs"], "did you mean 'authors'?"),
        (["pairs", "DATA", "--out", "x.csv"], "x.csv"),
        (["pairs", "DATA", "--out", "x.parquet", "--aspects", "helpfulnes"], "did you mean 'helpfulness'?"),
        (["pairs", "DATA", "--out", "x.parquet", "--weights", "helpfulness=a"], "ASPECT=NUMBER"),
        (["pairs", "no/such", "--out", "x.parquet"], "no such file or folder"),
        (["convert", "DATA/pairs.jsonl", "x.json", "--to", "povd"], "did you mean 'povid'?"),
        (["leaks", "DATA", "--tasks", "scenes_char"], "did you mean 'scenes_chair'?"),
        (["annotate", "DATA/vlfeedback.jsonl"], "--out"),
        (["pairs", "DATA/vlfeedback.jsonl", "--out", "DATA/vlfeedback.jsonl"], "is among the data that is read"),
        (["convert", "DATA", "DATA/vlfeedback.jsonl", "--to", "vlfeedback"], "is among the data that is read"),
        (["build", "--pool", "scenes", "--source", "LLaVA=much"], "SOURCE=WEIGHT"),
        (["build", "--pool", "scenes", "--mode", "jont"], "jont"),
        (["annotate", "DATA", "--mode", "jont"], "--mode 'jont': known: joint, per-aspect"),
        (["build"], "name a --recipe, or a --pool"),
        (["build", "--pool", "scenes", "--source", "LLaVAA"], "did you mean 'LLaVA'?"),
        (["build", "--pool", "a@x=ftp://y"], "SERVER_URL"),
        (["build", "--pool", "scenes", "--rule", "authrs"], "authrs"),
        (
            ["build", "--pool", "a", "--pool", "b", "--answers", "2", "--thinking", "no"],
            "must be on, off, MEMBER=on or MEMBER=off",
        ),
        (
            ["build", "--pool", "abc", "--pool", "b", "--answers", "2", "--thinking", "abd=on"],
            "no member 'abd' in the pool; known: abc@1, b@1",
        ),
        (["build", "--pool", "scenes", "--slurm", "partitoin=x", "--dry-run"], "did you mean 'partition'?"),
    ),
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: list[str],
    said: str,
    built: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(["vlfeedback", *(argument.replace("DATA", str(built)) for argument in arguments)]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error
    assert "\n" not in error


def test_a_part_is_rated_again_and_held_against_the_first_ratings(
    built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = str(built / "dataset" / "rows.parquet")
    found = run(["vlfeedback", "annotate", rows, "--part", "6", "--out", str(tmp_path)], capsys)
    assert (found["rated"], found["failed"], found["unread"]) == (6, 0, {})
    both = [str(tmp_path / f"ratings-{name}.jsonl") for name in ("published", "scenes")]
    assert cli.run(["judge", "agree", *both]) == 0
    assert "72 items rated by both" in capsys.readouterr().out  # 6 rows x 4 answers x 3 aspects
    assert len(list(read_rows(tmp_path / "rows-scenes.jsonl", built / "images"))) == 6
    again = run(["vlfeedback", "annotate", str(built), "--part", "0.5", "--mode", "per-aspect"], capsys)
    assert again["rated"] == 12


def write_llava(folder: Path, names: list[str], there: list[str]) -> list[str]:
    turns = [{"from": "human", "value": "Describe.\n<image>"}, {"from": "gpt", "value": "A dog on grass."}]
    rows = [{"id": name, "image": name, "conversations": turns} for name in names]
    (folder / "detail.json").write_text(json.dumps(rows))
    (folder / "train2014").mkdir()
    for name in there:
        Image.new("RGB", (8, 8)).save(folder / "train2014" / name)
    arguments = ["povid", "inject", str(folder / "detail.json"), "--images", str(folder / "train2014")]
    judge = ["--judge", "m", "--judge-url", "http://127.0.0.1:9/v1", "--ledger", str(folder / "l.sqlite")]
    return [*arguments, *judge, "--out", str(folder / "out")]


@pytest.mark.parametrize("name", ("000000442786.jpg", "COCO_val2014_000000442786.jpg", "coco/000000442786.jpg"))
def test_cocos_pictures_are_found_by_llavas_names(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    asked: list[str] = []

    def inject(items: Iterable[Any], *_: Any, **__: Any) -> int:
        asked.extend(item.image.file.name for item in items)
        return 0

    monkeypatch.setattr("trainers.povid.inject.inject", inject)
    assert cli.run(write_llava(tmp_path, [name], ["COCO_train2014_000000442786.jpg"])) == 0
    assert asked == ["COCO_train2014_000000442786.jpg"]


def test_missing_pictures_are_told_before_a_judge_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    monkeypatch.setattr("trainers.povid.inject.inject", lambda *_, **__: pytest.fail("a judge is asked"))
    assert cli.run(write_llava(tmp_path, ["1.jpg", "2.jpg"], [])) == 2
    assert "2 of 2 pictures are not in" in capsys.readouterr().err


def test_hallucinations_are_injected_and_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "povid"
    found = run(["povid", "inject", "scenes", "--rows", "12", "--out", str(out)], capsys)
    pairs = list(read_pairs(out / "povid.json"))
    assert len(pairs) == found["pairs"] == found["made"] >= 10
    assert all(pair.chosen != pair.rejected and pair.images[0].open() for pair in pairs)
    before = (out / "povid.json").read_bytes()
    assert run(["povid", "inject", "scenes", "--rows", "12", "--out", str(out)], capsys) == found
    assert (out / "povid.json").read_bytes() == before
    assert cli.run(["povid", "noise", str(pairs[0].images[0].file), str(tmp_path / "n.png"), "--overflow", "wrap"]) == 0
    assert "signal 0.863, noise 0.505" in capsys.readouterr().err


def test_a_source_that_is_not_there_claims_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["vlfeedback", "build", "--pool", "scenes", "--rows", "8", "--out", str(tmp_path / "data")]
    assert cli.run([*command, "--source", "no/such/file.jsonl"]) == 2
    assert cli.run([*command, "--source", "scenes"]) == 0


def test_tables_without_a_card_get_one_when_they_are_pushed(
    built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert cli.run(["vlfeedback", "push", str(tmp_path), "me/data"]) == 2
    assert "neither rated answers nor pairs" in capsys.readouterr().err
    assert cli.run(["vlfeedback", "convert", str(built), str(tmp_path / "rows.parquet"), "--to", "vlfeedback"]) == 0
    assert cli.run(["vlfeedback", "push", str(tmp_path), "me/data"]) == 1  # nobody is there
    text = (tmp_path / "README.md").read_text()
    assert "config_name: rows" in text
    assert re.search(r"\| Helpfulness +\| +here \|", text)


def test_noise_goes_before_or_after_the_resize(built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    picture = str(next((built / "images").iterdir()))
    for place in ("before", "after"):
        out = str(tmp_path / f"{place}.png")
        assert cli.run(["povid", "noise", picture, out, "--size", "120", "--place", place]) == 0
    before, after = (Image.open(tmp_path / f"{place}.png") for place in ("before", "after"))
    assert before.size == after.size == (120, 120)
    assert before.tobytes() != after.tobytes()
    assert cli.run(["povid", "noise", str(tmp_path / "none.png"), "x.png"]) == 2
    assert "none.png: no picture" in capsys.readouterr().err


@pytest.mark.slow
def test_a_build_killed_in_decode_or_annotation_ends_with_the_same_bytes(tmp_path: Path) -> None:
    command = [*HARNESS, *BUILD[:-1], "600", "--out"]

    def start(out: Path) -> "subprocess.Popen[bytes]":
        nowhere = subprocess.DEVNULL
        return subprocess.Popen([*command, str(out)], stdout=nowhere, stderr=nowhere, start_new_session=True)

    whole = tmp_path / "whole"
    assert start(whole).wait() == 0
    moments: dict[str, Callable[[Path], bool]] = {
        "decode": lambda out: any(path.stat().st_size for path in (out / "answers").glob("*.jsonl")),
        "annotate": lambda out: (out / "ratings.jsonl").exists(),
    }
    for stage, reached in moments.items():
        out = tmp_path / stage
        running = start(out)
        while not reached(out) and running.poll() is None:
            time.sleep(0.01)
        os.killpg(running.pid, signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL, f"{stage}: it was over before it could be killed"
        assert start(out).wait() == 0
        files = "instructions.jsonl draw.jsonl ratings.jsonl vlfeedback.jsonl pairs.jsonl dataset/rows.parquet"
        for name in files.split():
            ours, theirs = ((folder / name).read_bytes().replace(str(folder).encode(), b"") for folder in (out, whole))
            assert ours == theirs, f"{stage}: {name}"


@pytest.mark.parametrize("command", ("stats", "check", "convert", "convert --to vlfeedback"))
def test_data_of_which_nothing_can_be_read_are_refused(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "torn.jsonl", tmp_path / "out.jsonl"
    path.write_text("{", encoding="utf-8")
    name, *options = command.split()
    written = [str(out)] if name == "convert" else []
    assert cli.run(["vlfeedback", name, str(path), *written, *options]) == 2
    assert "holds nothing that can be read: 0 " in capsys.readouterr().err
    assert not out.exists()
