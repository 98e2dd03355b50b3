"""The pool's members as LMs: what runs here, what is asked of a server, what is known of a model before it is
loaded."""

import gc
import json
import subprocess
import sys
import weakref
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from harness.datasets.build import data_of
from harness.datasets.pool import PoolModels, facts_of, load_served, plan_pool, spec_of, where
from harness.models.served_identity import end_run
from harness.models.spec import MODELS, WEIGHTS, find
from support.errors import InputError, JudgeDown
from tasks.judges.ledger import Ledger
from trainers.config.data import Data, PoolModel
from trainers.vlfeedback.answers import answers_file, decode, read_answers
from trainers.vlfeedback.instructions import Instruction

pytestmark = pytest.mark.usefixtures("no_keys")


def asked(folder: Path, count: int = 8) -> list[Instruction]:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("RGB", (96, 96), (number * 25, 0, 99)).save(folder / "images" / f"{number}.jpg")
    return [
        Instruction(id=f"i/{number}", prompt="What is it?", image=f"{number}.jpg", kind="question")
        for number in range(count)
    ]


def data(*members: PoolModel, **changes: Any) -> Data:
    return Data(**{"instructions": 8, "pool": members, "answers": len(members), "max_new_tokens": 6, **changes})


# The paper's pool.


def test_the_papers_twelve_models_are_all_known_here() -> None:
    pool = Data.model_validate({"instructions": 1, "pool": "paper"}).pool
    assert len({member.model for member in pool}) == len(pool) == 12
    assert {member.model for member in pool} <= MODELS.keys()
    assert [member.name for member in pool] == [member.model for member in pool]
    assert {spec_of(member).backend for member in pool} == {"openai", "transformers"}


def test_an_unknown_member_is_named_with_the_nearest_known() -> None:
    with pytest.raises(InputError, match=r"did you mean 'llava-1\.5-7b'"):
        PoolModels()(PoolModel(model="llava-1.5-7"))


def test_members_think_as_the_command_says() -> None:
    pool = ["a@0.5=http://node7:8000/v1", "b", "b@0"]

    def switches(*thinking: str) -> list[str | None]:
        made = data_of(None, pool=pool, thinking=thinking, given={"answers": 2})
        assert made.pool[0].url == "http://node7:8000/v1"
        return [member.thinking for member in made.pool]

    assert switches() == [None, None, None]
    assert switches("off") == ["off", "off", "off"]
    assert switches("a@0.5=on") == ["on", None, None]
    assert switches("b@0=on", "b=off", "on") == ["on", "off", "off"]
    assert len(data_of(None, pool=["paper"], thinking=["qwen-vl-chat=on"]).pool) == 12


def test_a_url_makes_any_name_a_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "http://me:secret@node7:8000/v1"
    for model, sent in (("llava-1.5-7b", "llava-1.5-7b"), ("/weights/x", "/weights/x"), ("openai:gpt-4o", "gpt-4o")):
        spec = spec_of(PoolModel(model=model, url=url))
        assert (spec.backend, spec.pretrained, spec.url) == ("openai", sent, url)
    assert where(spec) == "asked at http://node7:8000/v1"
    assert "neither url nor OPENAI_BASE_URL" in where(spec_of(PoolModel(model="gpt-4v")))
    monkeypatch.setenv("OPENAI_BASE_URL", "http://here/v1")
    assert where(spec_of(PoolModel(model="gpt-4v"))) == "asked at http://here/v1"


# Models here.


def test_members_of_one_model_share_it_and_another_takes_its_place(
    random_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "harness.datasets")
    pool = PoolModels()
    first: Any = pool(PoolModel(model="scenes-base"))
    again: Any = pool(PoolModel(model="scenes-base", temperature=0.5))
    assert again is first
    gone = weakref.ref(first.hf)
    del first, again
    other = pool(PoolModel(model=str(random_model), label="other"))
    gc.collect()
    assert gone() is None
    assert caplog.messages == ["scenes-base@1: loaded here", "other: loaded here"]
    pool.drop()
    assert pool(PoolModel(model=str(random_model))) is not other


def test_a_model_here_answers_by_its_settings_and_the_same_each_time(tmp_path: Path) -> None:
    options: list[dict[str, Any]] = [{"temperature": 0}, {}, {"top_p": 0.01, "label": "p"}]
    settings = data(*(PoolModel(model="scenes-base", **given) for given in options))
    found = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        instructions = asked(folder)
        decode(instructions, settings, 0, folder, PoolModels())
        found.append(read_answers(folder))
    assert found[0] == found[1]
    said = found[0].values()
    # With this top_p only the likeliest token is left to sample from.
    assert all(answers["p"] == answers["scenes-base@0"] for answers in said)
    assert any(answers["scenes-base@1"] != answers["scenes-base@0"] for answers in said)


# Servers.


def test_a_served_members_settings_reach_its_server_and_each_row_has_its_own_seed(server: Any, tmp_path: Path) -> None:
    server.reply = lambda prompt: "A thing."
    hot = PoolModel(model="far", url=server.url, temperature=0.7, top_p=0.9, max_new_tokens=33, prompt_suffix=" Say.")
    greedy = PoolModel(model="far", url=server.url, temperature=0)
    instructions = asked(tmp_path)
    found = decode(instructions, data(hot, greedy), 0, tmp_path, PoolModels(ledger=tmp_path / "ledger.sqlite"))
    assert all(member.missing == 0 for member in found.values())
    sent = [entry for entry in server.log if entry["temperature"] == 0.7]
    assert len(sent) == len(server.log) - 8 == 8
    assert {(entry["model"], entry["top_p"], entry["max_tokens"]) for entry in sent} == {("far", 0.9, 33)}
    assert len({entry["seed"] for entry in sent}) == 8
    assert all(0 <= entry["seed"] < 2**31 for entry in sent)
    (message,) = sent[0]["messages"]
    image, text = message["content"]
    assert image["image_url"]["url"].startswith("data:image/jpeg;base64,")  # the file as it is
    assert text["text"] == "What is it? Say."
    again = tmp_path / "again"
    decode(asked(again), data(hot, greedy), 0, again, PoolModels(ledger=tmp_path / "again.sqlite"))
    seeds = {entry["seed"] for entry in server.log[16:] if entry["temperature"] == 0.7}
    assert seeds == {entry["seed"] for entry in sent}


def test_answers_that_were_paid_for_are_not_asked_for_again(server: Any, tmp_path: Path) -> None:
    numbers = iter(range(1000))
    server.reply = lambda prompt: f"Answer {next(numbers)}."
    member, other = PoolModel(model="far", url=server.url), PoolModel(model="near", url=server.url)
    instructions = asked(tmp_path)
    path = tmp_path / "ledger.sqlite"
    decode(instructions, data(member, other), 0, tmp_path, PoolModels(ledger=path, run="this one"))
    before = read_answers(tmp_path)
    answers_file(tmp_path, "far@1").unlink()  # killed before the shard was written
    decode(instructions, data(member, other), 0, tmp_path, PoolModels(ledger=path, run="this one"))
    assert len(server.log) == 16
    assert read_answers(tmp_path) == before
    end_run(path, "this one")
    answers_file(tmp_path, "far@1").unlink()
    decode(instructions, data(member, other), 0, tmp_path, PoolModels(ledger=path, run="this one"))
    assert len(server.log) == 24  # nothing tells whether it is still the same model
    assert {total.task for total in Ledger(tmp_path / "ledger.sqlite").summary()} == {"answers"}


def test_a_row_that_a_server_refuses_is_recorded_as_failed_and_had_by_the_next_run(server: Any, tmp_path: Path) -> None:
    server.reply = lambda prompt: "A thing."
    member, other = PoolModel(model="far", url=server.url), PoolModel(model="near", url=server.url)
    instructions = asked(tmp_path)
    pool = PoolModels(ledger=tmp_path / "ledger.sqlite")
    server.faults = ["status:400"] + [None] * 7 + ["status:400"] * 2  # and again, both times
    found = decode(instructions, data(member, other), 0, tmp_path, pool)
    assert found["far@1"].failed == 1
    assert found["far@1"].reasons == {"content filter": 1}
    rows = [json.loads(line) for line in answers_file(tmp_path, "far@1").read_text().splitlines()]
    assert [row["attempts"] for row in rows if "failed" in row] == [3]
    asked_before = len(server.log)
    assert decode(instructions, data(member, other), 0, tmp_path, pool)["far@1"].missing == 0
    assert len(server.log) == asked_before + 1


def test_a_server_that_is_down_ends_the_run_and_loses_nothing(server: Any, tmp_path: Path) -> None:
    server.reply = lambda prompt: "A thing."
    up, down = PoolModel(model="up", url=server.url), PoolModel(model="down", url=server.url)
    instructions = asked(tmp_path)
    pool = PoolModels(ledger=tmp_path / "ledger.sqlite")
    server.faults = [None] * 8 + ["status:401"] * 100
    with pytest.raises(JudgeDown):
        decode(instructions, data(up, down), 0, tmp_path, pool)
    server.faults = []
    calls = len(server.log)
    assert all(member.missing == 0 for member in decode(instructions, data(up, down), 0, tmp_path, pool).values())
    assert len(server.log) == calls + 8


def test_an_actor_elsewhere_can_make_a_members_lm(server: Any, tmp_path: Path) -> None:
    import pickle

    make = pickle.loads(pickle.dumps(load_served))  # noqa: S301  # our own
    lm = make({}, PoolModel(model="far", url=server.url), ledger=tmp_path / "ledger.sqlite")
    assert lm.takes_seed
    started = {"here@1": spec_of(PoolModel(model="served-here", url=server.url))}
    make = pickle.loads(pickle.dumps(partial(load_served, started)))  # noqa: S301
    assert make(PoolModel(model="here"), ledger=tmp_path / "ledger.sqlite").model == "served-here"
    assert make(PoolModel(model="far", url=server.url), ledger=tmp_path / "ledger.sqlite").model == "far"


# The plan.


def test_what_is_known_of_a_model_is_read_from_its_files_or_from_the_table(random_model: Path) -> None:
    embedded = facts_of(find("scenes-base"))
    config = json.loads((WEIGHTS / "scenes-base" / "config.json").read_text())["text_config"]
    assert embedded.source == "its files"
    assert 1.2e6 < (embedded.parameters or 0) < 1.4e6
    assert embedded.weights == 4 * (embedded.parameters or 0)  # stored in half precision, computed in single
    heads = config.get("num_key_value_heads") or config["num_attention_heads"]
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    assert embedded.kept_per_position == 2 * config["num_hidden_layers"] * heads * head * 4
    import torch
    from safetensors.torch import load_file

    count = sum(tensor.numel() for tensor in load_file(random_model / "model.safetensors").values())
    assert facts_of(find(str(random_model))).parameters == count
    assert torch.float32 in {tensor.dtype for tensor in load_file(random_model / "model.safetensors").values()}
    assert facts_of(find(str(random_model))).weights == 2 * count  # a GPU computes in half precision
    table = facts_of(find("llava-1.5-7b"))
    assert (table.weights, table.parameters) == (14_100_000_000, 7_050_000_000)
    assert (table.image_positions, table.rows_at_once) == (576, 8)
    stored_in_float32 = facts_of(find("instructblip-7b"))
    assert (stored_in_float32.weights, stored_in_float32.parameters) == (15_850_000_000, 7_925_000_000)
    served = facts_of(find("gpt-4v"))
    assert (served.served, served.weights, served.model) == (True, None, "gpt-4o-2024-11-20")


@pytest.mark.parametrize(
    ("name", "positions"), (("llava-1.5-7b", 576), ("fuyu-8b", 2340), ("qwen3-vl-4b", 1024), ("internvl3-8b", 3328))
)
def test_positions_of_an_image_are_in_the_table(name: str, positions: int) -> None:
    assert facts_of(find(name)).image_positions == positions


def test_the_papers_pool_is_planned_without_loading_anything() -> None:
    code = (
        "import sys; from harness.datasets.pool import plan_pool; from trainers.config.recipe import Data\n"
        "print(plan_pool(Data(instructions=1200, pool='paper'), 0, 1200).to_markdown())\n"
        "print([name for name in ('torch', 'transformers', 'lm_eval') if name in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.endswith("[]\n")
    assert "1200 instructions, 4 answers each: 4800 answers, 4800 to be given." in told
    for name in ("gpt-4v", "llava-1.5-13b", "mmicl-13b"):
        assert f"| {name} | 400 | 0 | 0 |" in " ".join(told.split())
    assert "$" in told


def test_the_plan_takes_account_of_what_is_there(tmp_path: Path) -> None:
    settings = data(PoolModel(model="scenes-base"), PoolModel(model="scenes-early"))
    instructions = asked(tmp_path)
    decode(instructions, settings, 0, tmp_path, PoolModels())
    answers_file(tmp_path, "scenes-early@1").unlink()
    found = plan_pool(settings, 0, instructions, tmp_path)
    assert [(member.left, member.seconds == 0) for member in found.members] == [(0, True), (8, False)]
    assert "took" in found.members[1].rate
