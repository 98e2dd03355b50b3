"""A candidate model over the API, through the official client against a real server: what is asked, what is answered,
what is paid."""

import base64
import io
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lm_eval.api.instance import Instance
from PIL import Image

from harness.cli.main import run
from harness.evaluation.eval_settings import EvalSettings
from harness.evaluation.evaluate import evaluate
from harness.models.chat_model import OpenAIVisionLM
from harness.models.chat_settings import ServedModelSettings, served_settings
from harness.models.served_sampling import Decoding
from harness.models.spec import ModelSpec
from support.errors import JudgeDown, ModelError, SettingError
from support.images import ImageRef, keep, picture
from support.progress import show_on
from tasks.answer import Answer, FailedAnswer
from tasks.judges.ledger import Ledger
from tasks.judges.requests import image_part
from tasks.registry import registry
from tests.judge.reply_makers import body

pytestmark = pytest.mark.usefixtures("no_keys")
MODEL = "gpt-4o-2024-11-20"
GREEDY = {"do_sample": False, "max_gen_toks": 16, "until": []}


def noise(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (24, 36, 3), dtype=np.uint8))


def asking(text: str, *images: Any, task: str = "pope", **settings: Any) -> Instance:
    visual = ({"visual": list(images)},) if images else ()
    arguments = (text, GREEDY | settings, *visual)
    return Instance(request_type="generate_until", doc={}, arguments=arguments, idx=0, metadata=(task, 0, 1))


def answer(prompt: str) -> str:
    return f"About {prompt!r}: yes."


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


def lm_of(server: Any, path: Path, **settings: Any) -> OpenAIVisionLM:
    server.reply = answer
    own = {name: settings.pop(name) for name in ("url", "key", "stage") if name in settings}
    made = ServedModelSettings(**{"timeout": 5.0} | settings)
    return OpenAIVisionLM(MODEL, ledger=path, settings=made, **{"url": server.url} | own)


def shown(part: dict[str, Any]) -> tuple[str, bytes]:
    head, _, data = part["image_url"]["url"].partition(";base64,")
    return head, base64.b64decode(data)


def test_answers_are_what_the_server_says_in_the_order_asked(server: Any, path: Path) -> None:
    requests = [
        asking(f"<image>Question {n}?", noise(n), task=f"task-{n % 2}", max_gen_toks=8 + n % 3) for n in range(20)
    ]
    assert lm_of(server, path).generate_until(requests) == [answer(f"Question {n}?") for n in range(20)]
    assert {(total.task, total.calls) for total in Ledger(path).summary()} == {
        ("task-0 (answers)", 10),
        ("task-1 (answers)", 10),
    }


def test_images_stand_where_the_prompt_has_them_and_are_undamaged(server: Any, path: Path, tmp_path: Path) -> None:
    noise(3).save(tmp_path / "a.jpg")
    jpeg = picture(keep(ImageRef.at(tmp_path / "a.jpg")))
    lm_of(server, path, detail="high").generate_until(
        [asking("<image>\nWhat differs from<image> and <image>?", noise(1), jpeg, noise(2))]
    )
    (message,) = server.log[0]["messages"]
    parts = message["content"]
    assert [part.get("text", "image") for part in parts] == [
        "image",
        "\nWhat differs from",
        "image",
        " and ",
        "image",
        "?",
    ]
    for part, seed in ((parts[0], 1), (parts[4], 2)):
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(shown(part)[1]))), np.asarray(noise(seed)))
        assert part["image_url"]["detail"] == "high"
    assert shown(parts[2]) == ("data:image/jpeg", (tmp_path / "a.jpg").read_bytes())


def test_questions_of_all_tasks_about_one_image_are_asked_together(server: Any, path: Path) -> None:
    requests = [asking(f"<image>{task} about {n}", noise(n), task=task) for task in ("mme", "pope") for n in range(4)]
    requests += [asking("<image><image>both", noise(0), noise(1)), asking("<image>again about 2", noise(2))]
    lm_of(server, path, concurrency=1).generate_until(requests)
    texts = [entry["messages"][0]["content"][-1]["text"] for entry in server.log]
    about = [["mme about 0", "pope about 0"], ["mme about 1", "pope about 1"]]
    about += [["mme about 2", "pope about 2", "again about 2"], ["mme about 3", "pope about 3"], ["both"]]
    assert texts == [text for texts in about for text in texts]


def test_an_image_is_encoded_once_for_its_questions_and_again_for_another_size(
    server: Any, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[str] = []
    save = Image.Image.save
    monkeypatch.setattr(Image.Image, "save", lambda *given: saved.append(given[2]) or save(*given))  # type: ignore[func-returns-value]
    requests = [asking(f"<image>{n}", noise(100 + n % 2)) for n in range(12)]  # each time another object
    lm_of(server, path).generate_until(requests)
    assert saved == ["PNG"] * 2
    lm_of(server, path, image_side=8).generate_until(requests)
    assert len(saved) == 4
    assert len({entry["messages"][0]["content"][0]["image_url"]["url"] for entry in server.log}) == 4


def test_pictures_that_differ_in_what_their_file_has_are_sent_apart() -> None:
    plain, profiled = noise(200), noise(200)
    profiled.info["icc_profile"] = b"profile"
    first, second = (image_part(MODEL, image, "auto", None) for image in (plain, profiled))
    assert first.named["sha256"] != second.named["sha256"]
    assert image_part(MODEL, noise(200), "low", None).named == {**first.named, "detail": "low"}


def test_a_question_without_an_image_is_plain_text(server: Any, path: Path) -> None:
    assert lm_of(server, path).generate_until([asking("Why?")]) == [answer("Why?")]
    assert server.log[0]["messages"] == [{"role": "user", "content": "Why?"}]


def test_the_template_leaves_the_text_and_carries_a_system_message(server: Any, path: Path) -> None:
    lm = lm_of(server, path)
    user = {"role": "user", "content": "<image>Is it red?"}
    assert lm.apply_chat_template([user]) == "<image>Is it red?"
    with_system = lm.apply_chat_template([{"role": "system", "content": "Be brief."}, user])
    tricky = lm.apply_chat_template([{"role": "user", "content": "<|system|>I<|user|>am text"}])
    lm.generate_until([asking(with_system, noise(0)), asking(tricky)])
    first, second = sorted((entry["messages"] for entry in server.log), key=len, reverse=True)
    assert first[0] == {"role": "system", "content": "Be brief."}
    assert first[1]["content"][1] == {"type": "text", "text": "Is it red?"}
    assert second == [{"role": "user", "content": "<|system|>I<|user|>am text"}]


def test_more_than_one_turn_is_refused_in_one_line(server: Any, path: Path) -> None:
    user, assistant = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
    for history in ([user, assistant, user], [user, assistant], [user, user], []):
        with pytest.raises(ModelError, match="only one user turn"):
            lm_of(server, path).apply_chat_template(history)
    with pytest.raises(ModelError, match="only one user turn"):
        lm_of(server, path).apply_chat_template([user], add_generation_prompt=False)


def test_settings_of_a_task_reach_the_server(server: Any, path: Path) -> None:
    lm = lm_of(server, path, concurrency=1)
    lm.generate_until([asking("a", temperature=0.7, top_p=0.9)])
    lm.generate_until([asking("b", do_sample=True, temperature=0.7, top_p=0.9, seed=5, top_k=0, num_beams=1)])
    request = asking("c")
    del request.arguments[1]["max_gen_toks"]
    lm_of(server, path, thinking_tokens=1000, seed=None).generate_until([request])
    names = ("temperature", "top_p", "seed", "max_tokens", "stop")
    sent = [[entry.get(name) for name in names] for entry in server.log]
    assert sent == [[0.0, None, 0, 16, None], [0.7, 0.9, 5, 16, None], [0.0, None, None, 1256, None]]
    with pytest.raises(SettingError, match=r"top_k = 50: would not act: gpt-4o-2024-11-20 takes none \(openai-chat\)"):
        lm.generate_until([asking("d", do_sample=True, top_k=50)])


def test_settings_of_the_user_go_before_those_of_the_task(server: Any, path: Path) -> None:
    lm = lm_of(server, path, max_new_tokens=7, temperature=0.5, top_p=0.8, prompt_suffix=" Be brief.", seed=3)
    asked = lm.apply_chat_template([{"role": "user", "content": "<image>a"}])
    lm.generate_until([asking(asked, noise(0), temperature=0.0)])
    (entry,) = server.log
    assert [entry[name] for name in ("max_tokens", "temperature", "top_p", "seed")] == [7, 0.5, 0.8, 3]
    assert entry["messages"][0]["content"][1]["text"] == "a Be brief."
    assert lm.provenance()["prompt suffix"] == " Be brief."


def test_what_the_engine_was_told_acts_on_a_served_model_or_is_refused() -> None:
    given = {"suffix": " Be brief.", "max_new_tokens": "7", "temperature": 0.5, "answers": Path("answers.sqlite")}
    assert served_settings("far", given) == ServedModelSettings(
        prompt_suffix=" Be brief.", max_new_tokens=7, temperature=0.5
    )
    for name in ("nonsense", "batch_size", "exact", "features", "load_in_4bit"):
        with pytest.raises(
            SettingError, match=rf"far: {name} = 3 would not act: the model is behind a server.*known: "
        ):
            served_settings("far", {name: 3})
    with pytest.raises(SettingError, match=r"top_p = 0\.8: would not act without a temperature"):
        served_settings("far", {"top_p": 0.8})
    with pytest.raises(SettingError, match=r"temperature = 0\.5: would not act: o3 takes none"):
        OpenAIVisionLM("o3", url="http://127.0.0.1:1/v1", settings=ServedModelSettings(temperature=0.5))


PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"


def test_answers_of_earlier_versions_are_found_again(path: Path, tmp_path: Path) -> None:
    """Keys as version 0.1 made them: they must never change."""
    (tmp_path / "a.png").write_bytes(base64.b64decode(PNG))
    image = picture(keep(ImageRef.at(tmp_path / "a.png")))
    image.load()

    def key(model: str, text: str, images: list[Any], decoding: Decoding, repeat: int = 0, **settings: Any) -> str:
        identity = settings.pop("identity", None)
        made = ServedModelSettings(**settings)
        lm = OpenAIVisionLM(model, url="http://me:pw@host:1/v1", identity=identity, ledger=path, settings=made)
        return lm.request(text, images, decoding, repeat).key

    short = Decoding(max_tokens=16, until=("\n",))
    sampled = Decoding(system="S", max_tokens=16, temperature=0.7, top_p=0.9, seed=5)
    question = "<image>\nIs it red?"
    assert [
        key(MODEL, question, [image], short),
        key(MODEL, "a", [], sampled, repeat=1),
        key("o3", question, [image], short),
        key(MODEL, question, [image], short, identity="abc", seed=None, detail="high"),
    ] == [
        "65a47984bcb607f4a4ae1ded001abb198b444bdd8144f591894ee3cd56308a50",
        "053befae1d176f2d2497df2f1e5bb2d7cba57a558e98242f535cd46c16588582",
        "441eec3435864e747b0777bce86fa191fadf2d00f49b53de96c73acb8795ca62",
        "2528a68f946ee929e73191813b53c93336aeef72d7a9366330216ba0ef0a6c96",
    ]


def test_a_model_that_thinks_gets_only_what_it_takes(server: Any, path: Path) -> None:
    lm = OpenAIVisionLM("o3", url=server.url, ledger=path)
    lm.generate_until([asking("a", until=["\n"])])
    assert {"model", "messages", "max_completion_tokens", "seed"} == server.log[0].keys() - {"fault", "authorization"}
    assert lm.provenance()["decoding"] == "the server's own"


def test_answers_end_at_every_stop_sequence_also_those_the_server_does_not_get(server: Any, path: Path) -> None:
    lm = lm_of(server, path)
    server.reply = lambda prompt: "one two three four five six"
    assert lm.generate_until([asking("a", until=["6", "7", "8", "", "9", " five"])]) == ["one two three four"]
    assert lm.generate_until([asking("b", until=" two")]) == ["one"]
    assert [entry["stop"] for entry in server.log] == [["6", "7", "8", "9"], [" two"]]


def test_a_failed_call_is_no_answer_and_an_empty_answer_is_one(server: Any, path: Path) -> None:
    server.faults = [None, "status:400", "empty", "refusal", "null"]
    lm = lm_of(server, path, concurrency=1)
    answers = lm.generate_until([asking(f"Question {n}?") for n in range(5)])
    assert [type(answer) for answer in answers] == [str, FailedAnswer, str, FailedAnswer, FailedAnswer]
    assert answers[2] == ""
    reasons = [answer.error for answer in answers if isinstance(answer, FailedAnswer)]
    assert reasons == ["content filter", "refusal", "no content"]
    assert dict(lm.client.failures) == dict.fromkeys(reasons, 1)
    asked = len(server.log)
    kinds = [type(answer) for answer in lm.generate_until([asking(f"Question {n}?") for n in range(5)])]
    assert kinds == [str, str, str, FailedAnswer, FailedAnswer]
    assert len(server.log) == asked + 1  # what cost nothing is asked again, a paid failure and an empty answer are not
    lm = lm_of(server, path, retry_unread=True)
    assert [type(answer) for answer in lm.generate_until([asking(f"Question {n}?") for n in range(5)])] == [str] * 5
    assert len(server.log) == asked + 3


def test_an_image_that_cannot_be_shown_fails_its_own_question(server: Any, path: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    broken, gone = (picture(keep(ImageRef.at(tmp_path / name))) for name in ("broken.png", "gone.png"))
    told: list[tuple[str, int, int]] = []
    lm = lm_of(server, path, stage="answers")
    requests = [
        asking("<image>a", broken),
        asking("<image>b", noise(0)),
        asking("<image>c", gone),
        asking("<image><image>d", noise(0)),
    ]
    with show_on(lambda *shown: told.append(shown)):
        answers = lm.generate_until(requests)
    assert answers[1] == answer("b")
    reasons = [answer.error for answer in answers if isinstance(answer, FailedAnswer)]
    assert len(reasons) == 3
    assert reasons[2] == "1 images for 2 places in the prompt"
    assert len(server.log) == 1
    assert told[-1] == ("answers", 4, 4)


def test_a_second_run_makes_no_call_and_says_who_answered(server: Any, path: Path) -> None:
    server.faults = ["wrong model"]
    requests = [asking(f"<image>Question {n}?", noise(n)) for n in range(6)]
    first = lm_of(server, path).generate_until(requests[:4])
    again = lm_of(server, path)
    assert again.generate_until(requests)[:4] == first
    assert len(server.log) == 6
    last = lm_of(server, path)
    last.generate_until(requests)
    assert len(server.log) == 6
    told = {"sampling": "temperature 0, seed 0"}
    assert last.provenance() == {"asked": MODEL, "served": f"another-model, {MODEL}", "server": server.url} | told


def test_another_server_is_another_model(server: Any, path: Path) -> None:
    lm_of(server, path).generate_until([asking("a")])
    lm_of(server, path, url=server.url.replace("127.0.0.1", "localhost")).generate_until([asking("a")])
    assert len(server.log) == 2


def test_a_repeated_request_is_asked_anew_where_it_is_sampled(server: Any, path: Path) -> None:
    sampled, greedy = asking("a", do_sample=True, temperature=1.0), asking("b")
    lm_of(server, path).generate_until([sampled, sampled, sampled, greedy, greedy])
    assert len(server.log) == 4
    lm_of(server, path).generate_until([sampled, sampled, sampled, greedy, greedy])
    assert len(server.log) == 4


def test_a_limited_server_loses_no_question(server: Any, path: Path) -> None:
    server.allowed = 20.0
    lm = lm_of(server, path, attempts=2, concurrency=32)
    assert lm.generate_until([asking(f"Question {n}?") for n in range(60)]) == [
        answer(f"Question {n}?") for n in range(60)
    ]
    assert sum(entry["fault"] == "limit" for entry in server.log) > 0


def test_a_server_that_stays_down_ends_the_run_and_keeps_what_was_paid(server: Any, path: Path) -> None:
    server.faults = [None] * 3
    server.always = "status:500"
    requests = [asking(f"Question {n}?") for n in range(10)]
    with pytest.raises(JudgeDown, match=r"3 questions in a row got no reply in 2 tries \(status 500: .*\)"):
        lm_of(server, path, attempts=2, concurrency=1).generate_until(requests)
    server.always, asked = None, len(server.log)
    assert lm_of(server, path).generate_until(requests) == [answer(f"Question {n}?") for n in range(10)]
    assert len(server.log) - asked == 7


def test_no_key_no_credentials_and_no_image_is_logged(
    server: Any, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.faults = ["status:500", "429:10"]
    lm = lm_of(server, path, url=server.url.replace("//", "//me:very-s%65cret@"))
    lm.generate_until([asking("<image>a", noise(0))])
    keyed = lm_of(server, path, key="sk-very-secret")
    server.always = "status:401"
    with pytest.raises(JudgeDown) as error:
        keyed.generate_until([asking("<image>b", noise(0))])
    assert server.log[0]["authorization"] == "Basic " + base64.b64encode(b"me:very-secret").decode()
    assert server.log[-1]["authorization"] == "Bearer sk-very-secret"
    assert lm.provenance()["server"] == server.url
    told = caplog.text + str(error.value) + repr(lm) + repr(lm.provenance()) + "".join(map(repr, Ledger(path).calls()))
    assert caplog.text
    assert "cret" not in told
    assert server.log[0]["authorization"].removeprefix("Basic ") not in told
    assert shown(server.log[0]["messages"][0]["content"][0])[1][:100] not in told.encode()
    assert server.log[0]["messages"][0]["content"][0]["image_url"]["url"][100:160] not in told


def test_a_key_goes_nowhere_in_silence(
    server: Any, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    lm_of(server, path).generate_until([asking("0")])
    assert "is sent to" not in caplog.text
    with pytest.raises(SettingError, match="set OPENAI_API_KEY, or name its server"):
        OpenAIVisionLM(MODEL, ledger=path)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-own")
    assert OpenAIVisionLM(MODEL, ledger=path).provenance()["server"] == "https://api.openai.com/v1"
    lm_of(server, path).generate_until([asking("a")])
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    lm_of(server, path, url=None).generate_until([asking("b")])
    assert [entry["authorization"] for entry in server.log] == ["Bearer none", "Bearer sk-own", "Bearer sk-own"]
    assert caplog.text.count(f"{MODEL}: the key in OPENAI_API_KEY is sent to {server.url}") == 2


def test_likelihoods_are_not_to_be_had(server: Any, path: Path) -> None:
    for ask in (lm_of(server, path).loglikelihood, lm_of(server, path).loglikelihood_rolling):
        with pytest.raises(ModelError, match="how likely a given text is"):
            ask([asking("a")])


@pytest.mark.parametrize(
    ("beside", "reasoning"),
    (
        ({"reasoning_content": " A or B? "}, "A or B?"),
        ({"reasoning": "A or B?"}, "A or B?"),
        ({"reasoning_details": [{"type": "reasoning.text", "text": "A or"}, {"text": "B?"}]}, "A or\n\nB?"),
        ({"thinking_blocks": [{"type": "thinking", "thinking": "A or B?", "signature": "x"}]}, "A or B?"),
        ({"content": [{"type": "thinking", "thinking": "A?"}, {"type": "text", "text": "\n A\n"}]}, "A?"),
        ({"reasoning_content": 7}, None),
        ({}, None),
    ),
)
def test_an_answer_is_stripped_and_thoughts_beside_it_are_kept(
    beside: dict[str, Any], reasoning: str | None, server: Any, path: Path
) -> None:
    choice = {"finish_reason": "stop", "message": {"content": "\n A\n", **beside}}
    server.answer = lambda request: (200, {"choices": [choice], "model": "m"})
    for _ in range(2):  # asked, and out of the ledger
        (found,) = lm_of(server, path).generate_until([asking("which?")])
        assert isinstance(found, Answer)
        assert (found, found.raw, found.reasoning) == ("A", "\n A\n", reasoning)
    assert len(server.log) == 1


def test_what_a_model_thinks_is_in_the_log_and_not_in_the_score(
    server: Any, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    said = "<think>Yes? Yes. Not yes...</think>\nNo."

    def complete(request: dict[str, Any]) -> tuple[int, Any]:
        ends = "length" if len(server.log) <= 2 else "stop"  # the second time with room for thoughts
        return 200, {"choices": [{"finish_reason": ends, "message": {"content": said}}], "model": "m"}

    server.answer = complete
    spec, tasks = ModelSpec(name="api", pretrained=MODEL), registry().expand(["scenes_pope"])
    for _ in range(2):  # asked, and out of the ledger
        caplog.clear()
        caplog.set_level(logging.INFO)
        found = evaluate(
            spec, tasks, None, EvalSettings(limit=4), load=lambda *_, **__: lm_of(server, path, concurrency=1)
        )
        assert next(entry.value for entry in found.entries if entry.metric == "yes_rate") == 0
        logged = [(sample.answer, sample.raw, sample.reasoning) for sample in found.samples]
        assert logged == [("No.", said, "Yes? Yes. Not yes...")] * 4
        assert sum(sample.cut for sample in found.samples) == 1
        assert "scenes_pope: 1 of 4 answers were cut at the limit of tokens" in caplog.text
    assert len(server.log) == 5


def test_a_benchmark_runs_from_end_to_end_and_a_second_time_for_nothing(server: Any, path: Path) -> None:
    tasks = registry().expand(["scenes_pope"])
    spec = ModelSpec(name="api", pretrained=MODEL)

    def load(*_: Any, **__: Any) -> OpenAIVisionLM:
        lm = lm_of(server, path)
        server.reply = lambda prompt: "yes"
        return lm

    server.faults = [None, "status:400"]
    first = evaluate(spec, tasks, None, EvalSettings(limit=4), load=load)
    assert {(entry.samples, entry.failed) for entry in first.entries} == {(4, 1)}
    assert next(entry.value for entry in first.entries if entry.metric == "yes_rate") == 100
    assert all(sample.prompt.startswith("<image>") and sample.answer in ("yes", None) for sample in first.samples)
    sent = server.log[0]["messages"][0]["content"]
    assert shown(sent[0])[0] == "data:image/png"
    assert sent[1]["text"] == first.samples[0].prompt.removeprefix("<image>")
    second = evaluate(spec, tasks, None, EvalSettings(limit=4), load=load)
    assert all(entry.failed == 0 for entry in second.entries)
    assert len(server.log) == 5  # the one that failed
    evaluate(spec, tasks, None, EvalSettings(limit=4), load=load)
    assert len(server.log) == 5


def test_settings_of_the_command_line_reach_the_server_and_the_entry(
    server: Any, path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.reply = lambda prompt: "yes"
    command = ["eval", "--model", f"openai:{MODEL}", "--model-url", server.url, "--ledger", str(path)]
    command += ["--tasks", "scenes_pope", "--limit", "2", "--out", str(tmp_path / "run")]
    monkeypatch.setenv("HARNESS_BATCH_SIZE", "4")  # settings of the environment that would not act are passed over
    monkeypatch.setenv("HARNESS_MODEL_SET", "parallelize=true")
    given = ["--prompt-suffix", " Be brief.", "--model-set", "max_new_tokens=7", "--model-set", "temperature=0.5"]
    assert run([*command, *given, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)["entries"][0]["provenance"]
    assert (facts["prompt suffix"], facts["model settings"]) == (" Be brief.", "max_new_tokens=7, temperature=0.5")
    for entry in server.log:
        assert (entry["max_tokens"], entry["temperature"]) == (7, 0.5)
        assert entry["messages"][0]["content"][1]["text"].endswith(" Be brief.")
    assert run([*command, *given]) == 0
    assert "already on the board" in capsys.readouterr().err
    assert len(server.log) == 2
    for option in (["--model-set", "nonsense=3"], ["--batch-size", "4"], ["--exact"], ["--features", str(tmp_path)]):
        assert run([*command, *option]) == 2
        assert "would not act: the model is behind a server" in capsys.readouterr().err
    assert len(server.log) == 2


@pytest.mark.parametrize(
    ("usage", "longer"),
    (
        ({"completion_tokens": 60, "completion_tokens_details": {"reasoning_tokens": 40}}, "1 of 1"),
        ({"completion_tokens": 60, "reasoning_tokens": 40}, "1 of 1"),  # SGLang
        ({"completion_tokens": 20, "total_tokens": 70}, "1 of 1"),  # Gemini
        ({"completion_tokens": 60, "completion_tokens_details": {"reasoning_tokens": 44}}, None),
        ({"completion_tokens": 60}, None),  # not counted apart
    ),
)
def test_answers_of_more_tokens_than_their_task_gives_are_told(
    usage: dict[str, Any], longer: str | None, server: Any, path: Path
) -> None:
    server.answer = lambda request: (200, body("Yes.", over={"usage": {"prompt_tokens": 10, **usage}}))
    for _ in range(2):  # the second time out of the ledger
        lm = OpenAIVisionLM("gpt-5-mini", ledger=path, url=server.url)
        assert lm.generate_until([asking("Is it?")]) == ["Yes."]
        assert lm.provenance().get("longer than the limit") == longer
    assert len(server.log) == 1
