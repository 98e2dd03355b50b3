"""--dry-run looks at all that a run needs, asks for no key, tells what the run takes, and fails where the run would."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import harness
from harness.cli.main import run
from harness.datasets.build import data_of
from harness.datasets.readiness import plan_ratings_of, with_instructions_there
from harness.evaluation.make_judge import judge_or_estimator
from harness.models.readiness import look_at_models
from harness.models.spec import WEIGHTS, ModelSpec, find
from support.errors import Need, NotReady
from tests.support.file_server import Files, serving

JUDGE = "gpt-4o-2024-11-20"
pytestmark = pytest.mark.usefixtures("no_keys", "hub")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Files]:
    """A hub that answers, and has nothing."""
    with serving(Files()) as files:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", files.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.chdir(tmp_path)
        yield files


def forecast(arguments: list[str], capsys: pytest.CaptureFixture[str], code: int = 0) -> dict[str, Any]:
    """What a dry run prints for machines."""
    assert run([*arguments, "--dry-run", "--json"]) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def things(found: dict[str, Any]) -> list[str]:
    return [need["what"] for need in found["missing"]]


LLAVA, QWEN, PUBLIC = "weights of llava-1.5-7b", "weights of qwen-vl-chat", "preference data 'public'"
LACKING = (
    ("eval --model llava-1.5-7b --model nowhere --tasks mmhal", ["data of mmhal", LLAVA, "no model 'nowhere'"]),
    ("train-then-eval silkie --tasks mmhal", ["data of mmhal", QWEN, PUBLIC]),
    ("train silkie --gpus 8", [QWEN, PUBLIC, "--gpus 8"]),
    ("watch nowhere --tasks mmhal", ["data of mmhal", "nowhere"]),
    ("vlfeedback build --source hub:some/one --pool paper", [LLAVA, "source 'hub:some/one'"]),
    ("parity llava-1.5-7b mmhal", ["data of mmhal", LLAVA]),
    ("attention llava-1.5-7b --against smolvlm", [LLAVA, "weights of smolvlm"]),
    (f"judge bench {JUDGE} --bench vl_rewardbench --data vl_rewardbench=none", ["vl_rewardbench", f"judge '{JUDGE}'"]),
    ("povid inject none.json --images none", ["none", f"judge '{JUDGE}'"]),
)
WITHOUT_JUDGE = ("train", "attention", "judge")
WITHOUT_OUT = ("parity",)


@pytest.mark.parametrize(("command", "missing"), LACKING, ids=[command for command, _ in LACKING])
def test_a_dry_run_and_the_run_lack_the_same_and_the_run_claims_no_folder(
    command: str, missing: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, words = tmp_path / "out", command.split()
    words += [] if words[0] in WITHOUT_JUDGE else ["--judge", JUDGE]
    words += [] if words[0] in WITHOUT_OUT else ["--out", str(out)]
    found = forecast(words, capsys, code=2)
    told = " ".join(things(found))
    assert [part for part in missing if part not in told] == []
    assert all(need["command"] or need["why"] for need in found["missing"])
    assert {"questions", "judge_calls", "dollars", "gigabytes", "seconds"} <= found.keys()
    assert run(words) == 2
    table = capsys.readouterr().err
    assert [part for part in missing if part not in table] == []
    assert not out.exists()


def test_a_base_that_cannot_be_is_told_before_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["eval", "--model", "scenes-base", "--base", "nosuch", "--tasks", "scenes_pope", "--out", "x"]
    assert "scenes-base is no adapter" in " ".join(need["why"] for need in forecast(asked, capsys, code=2)["missing"])
    assert run(["eval", "--model", "nowhere", "--tasks", "scenes_pope", "--dry-run"]) == 2
    assert "score no model: none of those named is found" in capsys.readouterr().out
    for words in (["--attn-implementation", "flash"], ["--dtype", "float33"], ["--device", "gpu"]):
        assert run(["eval", "--model", "scenes-base", "--tasks", "scenes_pope", "--dry-run", *words]) == 2
        assert f"'{words[1]}'" in capsys.readouterr().err


@pytest.mark.parametrize("more", ([], ["--judge-budget", "1"], ["--dry-run"]), ids=" ".join)
def test_a_run_that_lacks_something_and_a_dry_run_leave_no_ledger(
    more: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    assert run(["eval", "--model", "scenes-base", "--tasks", "mmhal", "--judge", JUDGE, *more]) == 2
    assert [path.name for path in tmp_path.iterdir() if path.name != "hub"] == []


def test_no_more_instructions_are_planned_than_a_folder_has(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(3):
        Image.new("RGB", (32, 32), (80 * number, 0, 0)).save(pictures / f"{number}.png")
    (pictures / "prompts.txt").write_text("What is this?\nWhere?\n")
    sources = {"sources": [str(pictures)], "pool": ["scenes"]}
    many, few = (data_of(None, **sources, given={"instructions": count, "judge": JUDGE}) for count in (500, 4))
    assert (with_instructions_there(many).instructions, with_instructions_there(few).instructions) == (6, 4)
    elsewhere = data_of(None, **sources | {"sources": ["hub:some/one"]}, given={"judge": JUDGE})
    assert with_instructions_there(elsewhere) == elsewhere


def test_a_key_is_all_that_an_estimate_does_without(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["eval", "--model", "scenes-base", "--tasks", "scenes_mmhal", "--limit", "8", "--judge", JUDGE]
    found = forecast([*words, "--out", str(tmp_path / "run")], capsys)
    assert things(found) == [f"key of judge '{JUDGE}'"]
    assert (found["questions"], found["judge_calls"], found["gigabytes"]) == (8, 8, 0)
    assert 0 < found["dollars"] < 1
    assert found["seconds"] > 0
    assert run([*words, "--dry-run"]) == 0
    assert "set OPENAI_API_KEY, or name its server with --judge-url" in capsys.readouterr().err
    assert run([*words, "--out", str(tmp_path / "run")]) == 2
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ("gemini:gemini-3.5-flash", "azure:mine", "gpt-5-mini"))
def test_each_providers_judge_is_counted_without_its_key(name: str) -> None:
    lacking: list[Need] = []
    judge: Any = judge_or_estimator(name, lacking)
    assert judge.model == name.rpartition(":")[2]
    assert [need.is_key for need in lacking] == [True]
    assert judge.client.server.key is None


def test_questions_that_are_not_here_are_guessed(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["eval", "--model", "scenes-base", "--tasks", "mmhal", "--judge", JUDGE]
    found = forecast(words, capsys, code=2)
    assert (found["questions"], found["judge_calls"]) == (96, 96)
    assert found["dollars"] == pytest.approx(96 * (800 * 2.5 + 150 * 10) / 1e6)


def test_a_build_is_planned_with_its_judge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["vlfeedback", "build", "--source", "scenes", "--pool", "scenes", "--rows", "100", "--out", str(tmp_path)]
    assert run([*words, "--judge", JUDGE, "--plan", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (ratings,) = found["judging"]
    assert (ratings["calls"], found["judge_calls"]) == (100, 100)
    assert found["dollars"] == pytest.approx(ratings["price"])
    assert ratings["price"] > 0
    assert [member["name"] for member in found["members"]]
    by_aspect = forecast([*words, "--judge", JUDGE, "--mode", "per-aspect"], capsys)
    assert by_aspect["judge_calls"] == 300
    assert by_aspect["dollars"] > found["dollars"]
    assert forecast(words, capsys)["judge_calls"] == 0  # the judge of scenes costs nothing


def test_the_judge_of_the_full_build_is_most_of_its_price() -> None:
    data = data_of(None, sources=["LLaVA"], pool=["paper"], given={"instructions": 80_258, "judge": JUDGE})
    judge: Any = judge_or_estimator(JUDGE, [])
    found = plan_ratings_of(judge, data)
    assert found.calls == 80_258
    assert found.price is not None
    assert 250 < found.price < 1000


def test_a_damaged_checkpoint_is_told_with_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(WEIGHTS / "scenes-base", folder)
    assert look_at_models([find(str(folder))]).needs == ()
    weights = folder / "model.safetensors"
    os.truncate(weights, weights.stat().st_size - 100)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    told = [need.why for need in look_at_models([find(str(folder))]).needs]
    assert told == [
        "model.safetensors is cut off: the rest of it is missing",
        "there is no tokenizer (tokenizer.json or the like)",
    ]
    assert run(["eval", "--model", str(folder), "--tasks", "scenes_pope", "--out", str(tmp_path / "run")]) == 1
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    weights.unlink()
    (first, *_) = look_at_models([find(str(folder))]).needs
    assert first.why == "2 of its 2 files are not there, such as model-1.safetensors"


@pytest.mark.parametrize("tokenizer", ("tekken.json", "tokenizer.model", "qwen.tiktoken", "vocab.txt", "spm.model"))
def test_a_whole_folder_lacks_nothing(tokenizer: str, tmp_path: Path) -> None:
    shutil.copy(WEIGHTS / "scenes-base" / "config.json", tmp_path)
    shutil.copy(WEIGHTS / "scenes-base" / "model.safetensors", tmp_path)
    (tmp_path / tokenizer).write_text("{}")
    left = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}  # of shards that were merged
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(left))
    assert look_at_models([find(str(tmp_path))]).needs == ()


def test_an_adapter_is_looked_at_with_its_base(tmp_path: Path) -> None:
    config = {"base_model_name_or_path": "llava-hf/llava-1.5-7b-hf", "peft_type": "LORA"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    told = {need.what for need in look_at_models([find(str(tmp_path))]).needs}
    assert told == {f"adapter {tmp_path}", f"weights of {tmp_path}"}


def test_room_is_looked_at_for_all_models_and_data_together(hub: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        files = [{"rfilename": "config.json", "size": 100}, {"rfilename": "model.safetensors", "size": 3 * 10**9}]
        about = {"id": f"some/{name}", "sha": "0" * 40, "siblings": files}
        hub.files[f"/api/models/some/{name}?blobs=true"] = json.dumps(about).encode()
    hub.content_type = "application/json"
    specs = [ModelSpec(name=name, pretrained=f"some/{name}", description="") for name in ("one", "two")]
    monkeypatch.setattr("support.full_disk._measure_free", lambda place: 4e9)
    assert not list(look_at_models(specs[:1]).room())
    (need,) = look_at_models(specs).room()
    assert "some/one and some/two takes 6.0 GB, and 4.0 GB are free there" in need.why


def test_the_python_interface_lacks_all_at_once(tmp_path: Path) -> None:
    with pytest.raises(NotReady) as lacking:
        harness.evaluate("llava-1.5-7b", "mmhal,scenes_pope", judge=JUDGE, board=tmp_path / "run")
    told = [need.what for need in lacking.value.needs]
    assert told == ["data of mmhal", "weights of llava-1.5-7b", f"key of judge '{JUDGE}'"]
    assert not (tmp_path / "run").exists()
    with pytest.raises(NotReady) as lacking:
        harness.train_then_eval("silkie", tmp_path / "run", tasks=["mmhal"])
    told = [need.what for need in lacking.value.needs]
    assert told[:2] == ["data of mmhal", "weights of qwen-vl-chat"]
    assert "preference data 'public'" in told
    assert not (tmp_path / "run").exists()


def test_gpus_that_are_not_there_are_refused_unless_cpus_are_meant(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    words = ["train-then-eval", "scenes-demo", "--gpus", "8"]
    assert things(forecast(words, capsys, code=2)) == ["--gpus 8"]
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert things(forecast(words, capsys)) == []
