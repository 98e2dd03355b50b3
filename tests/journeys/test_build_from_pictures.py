"""Preference data from a folder of pictures: models and judge behind local servers, then training on what was built."""

import json
from pathlib import Path

import pytest

from tests.conftest import Server
from tests.journeys.walk import User
from tests.trainers.image_makers import photo
from trainers.config.data import ASPECTS

COUNT = 8
BUILD = (
    "vlfeedback build --source photos/ask.jsonl --pool short={url} --pool long={url} --answers 2"
    " --judge some-judge --judge-url {url} --judge-price 1,2 --limit 8 --out mine"
)
RECIPE = """
name = "on-mine"
trainer = "dpo"
base = "{qwen}"
tasks = ["scenes_pope"]
[dataset]
read = "mine/dataset/pairs.parquet"
[training]
learning_rate = 1e-2
batch_size = 4
checkpoints = 1
[training.lora]
r = 4
alpha = 8
targets = '.*language_model.*q_proj'
"""


def rate_by_length(texts: list[str]) -> str:
    """A judge's reply in the form that the prompt asks for: 5 for the longest text, 2 for others."""
    longest = max(texts, key=len)
    return "\n".join(
        f"#### {aspect} Assessment\n"
        + "\n".join(
            f"##### Output for Text {number}\nRating: {5 if text == longest else 2}\nRationale: as it is."
            for number, text in enumerate(texts, start=1)
        )
        for aspect in ASPECTS
    )


def answer(body: dict[str, object]) -> tuple[int, object]:
    """The two models' answers, and the judge's ratings."""
    from tests.conftest import completion, read

    prompt, tokens = read(body["messages"])  # type: ignore[arg-type]
    model = str(body["model"])
    if model == "some-judge":
        said = rate_by_length(json.loads(prompt.rsplit("\n", 1)[1])["texts"])
    else:
        said = "a red circle" if model == "short" else f"a red circle beside a blue square ({len(prompt)})"
    return 200, completion(model, said, tokens, None)


@pytest.fixture
def builder(user: User, qwen: Path, server: Server) -> User:
    """With eight pictures and a question about each."""
    Path("photos").mkdir()
    rows = []
    for number in range(COUNT):
        photo(number).save(f"photos/{number}.jpg")
        rows.append({"id": str(number), "image": f"{number}.jpg", "question": f"What is in picture {number}?"})
    Path("photos/ask.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    Path("mine.toml").write_text(RECIPE.replace("{qwen}", str(qwen)), encoding="utf-8")
    server.answer = answer
    user.names.update(url=server.url, qwen=qwen)
    return user


def count_asked(server: Server, model: str) -> int:
    return sum(entry["model"] == model for entry in server.log)


def test_from_pictures_to_a_trained_model(builder: User, server: Server) -> None:
    wrong = builder.types(BUILD.replace("photos/ask", "photo/ask"), code=2)
    assert "no source 'photo/ask.jsonl'" in wrong.err
    alone = builder.types(BUILD.replace(" --pool long={url}", ""), code=2)
    assert "pool" in alone.err
    assert "must be at least 2, not 1" in alone.err
    planned = builder.types(BUILD + " --dry-run")
    assert f"{COUNT} judge calls" in planned.out
    assert server.log == []
    assert not Path("mine").exists()

    built = builder.types(BUILD)
    assert f"{COUNT} rows and {COUNT} pairs in mine/dataset" in built.err + built.out
    asked = len(server.log)
    assert asked == 3 * COUNT
    builder.types(BUILD)
    assert len(server.log) == asked

    for line in built.err.splitlines():
        if line.startswith("next: harness vlfeedback"):
            builder.types(line.removeprefix("next: harness "))
    stats = builder.types("vlfeedback stats mine/dataset --out stats")
    assert "short" in stats.out
    assert "long" in stats.out
    assert "nosuch" in builder.types("vlfeedback stats nosuch", code=2).err
    builder.types("vlfeedback pairs mine/dataset --rule largest-gap --out gap.jsonl")
    pairs = [json.loads(line) for line in Path("gap.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(pairs) == COUNT
    leaks = builder.types("vlfeedback leaks mine/dataset --tasks scenes_pope")
    assert "scenes_pope" in leaks.out

    trained = builder.types("train mine.toml --out trained")
    assert list(Path("trained").glob("checkpoint-*/adapter_model.safetensors"))
    scored = next(line for line in trained.err.splitlines() if line.startswith("next: harness eval"))
    assert builder.types(scored.removeprefix("next: harness ") + " --limit 2").code == 0


def test_no_rating_that_can_be_read_is_no_success(builder: User, server: Server) -> None:
    server.answer = None
    server.reply = lambda prompt: "I would rather not say."
    seen = builder.types(BUILD, code=4)
    assert "I would rather not say." in seen.err
    assert "next: harness train" not in seen.err


@pytest.mark.slow
@pytest.mark.parametrize("model", ("long", "some-judge"))
def test_killed_while_it_builds_the_same_command_asks_for_the_rest(builder: User, server: Server, model: str) -> None:
    server.delay = 0.3
    line = BUILD + " --judge-concurrency 1"
    builder.kills(line, lambda: count_asked(server, model) > 2)
    server.delay, before = 0.0, count_asked(server, "some-judge")
    seen = builder.types(line)
    assert f"{COUNT} rows and {COUNT} pairs" in seen.err + seen.out
    if model == "some-judge":
        assert count_asked(server, "some-judge") - before == COUNT - (before - 1)
