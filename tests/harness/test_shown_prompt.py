"""The exact text that a model gets, and the table of them in docs/benchmarks.md."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from harness.cli.main import run
from harness.engine.lm import SharedImageLM
from harness.evaluation.protocol import as_asked, asked_by, known
from harness.evaluation.shown_prompt import ALL, outlines, shown
from harness.models.fetch import fetch
from harness.models.load import load
from harness.models.spec import WEIGHTS, ModelSpec, find
from leaderboards.board.board import Board
from support.errors import ModelError, SettingError
from tasks.registry import registry
from tests.harness.llava_originals import CHAT
from tests.harness.test_benchmarks import TABLES, write_parquet
from tests.harness.test_protocols import LLAVA, QWEN_VL
from tests.harness.zoo import FAMILIES

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"
HEAD = ["task", "documents", "LLaVA-1.5", "Qwen-VL-Chat", "source"]


def _code(text: str) -> str:
    return "`" + text.removeprefix("<image>").replace("\n", "\\n").replace("|", "\\|") + "`"


def make_table() -> str:
    rows = []
    for task in registry().tasks.values():
        if task.data == "embedded":
            continue
        asked = [asked_by("official", task, spec) for spec in (LLAVA, QWEN_VL)]
        texts = [outlines(asking, task) for asking in asked]
        sources = {
            name: wordings[0].source
            for name in (*asked[0].protocol.split("+"), *asked[1].protocol.split("+"))
            if (wordings := known()[name].tasks.get(task.name) if name in known() else None)
        }
        for which in texts[0]:
            own = [_code(text.get(which, text.get(ALL, ""))) for text in texts]
            said = "; ".join(f"{name}: {source}" for name, source in sources.items()) or "the question as it stands"
            rows.append([task.name, which.replace("|", "\\|"), *own, said])
    return "\n".join(f"| {' | '.join(row)} |" for row in (HEAD, [":--"] * len(HEAD), *rows))


def test_the_page_has_the_prompts_that_are_asked() -> None:
    assert make_table() in PAGE.read_text(encoding="utf-8")


def test_the_page_has_the_words_around_them(tmp_path: Path) -> None:
    page = PAGE.read_text(encoding="utf-8")
    FAMILIES["llava"](tmp_path / "llava")
    llava = shown(as_asked(find(str(tmp_path / "llava")), "official"), "<image>QUESTION")
    assert llava == CHAT.replace("what is it", "QUESTION")
    assert llava.replace("\n", "\\n") in page
    chatml = "<|im_start|>user\nPicture 1: <img>PICTURE</img>\nQUESTION<|im_end|>\n<|im_start|>assistant\n"
    assert f"<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{chatml}".replace("\n", "\\n") in page


def test_qwen_vl_is_asked_as_silkies_authors_format_a_prompt() -> None:
    from jinja2 import Environment

    from harness.models.qwen_vl.tokenizer import CHAT_TEMPLATE

    asked = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Is it so?"}]}]
    text = Environment().from_string(CHAT_TEMPLATE).render(messages=asked, add_generation_prompt=True)
    # run_dpo.py of vlf-silkie/VLFeedback: preprocess puts these turns, qwen_vl_prompt_format the picture.
    system = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    turn = "<|im_start|>user\nPicture 1: <img><imgpad></img>\nIs it so?<|im_end|>\n<|im_start|>assistant\n"
    assert text == system + turn


@pytest.mark.parametrize("family", ("llava", "qwen2_5_vl", "llava_next", "fuyu"))
def test_what_is_shown_is_what_is_asked(family: str, tmp_path: Path) -> None:
    FAMILIES[family](tmp_path)
    spec = as_asked(fetch(find(str(tmp_path))), "official")
    text = shown(spec, "<image>Is there a dog?")
    asked = load(spec).apply_chat_template([{"role": "user", "content": "<image>Is there a dog?"}])
    assert text.endswith(asked)
    assert text.removesuffix(asked) in ("", "<s>")  # which its tokenizer puts first


def test_a_served_model_is_shown_by_its_messages() -> None:
    messages = json.loads(shown(LLAVA, "<image>Is it?\nNow", "Be careful."))
    content = [{"type": "image"}, {"type": "text", "text": "Is it?\nNow"}]
    assert messages[1:] == [{"role": "user", "content": content}]
    assert messages[0] == {"role": "system", "content": [{"type": "text", "text": "Be careful."}]}


def test_the_command_prints_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    FAMILIES["llava"](tmp_path)
    assert run(["tasks", "show", "pope", "--model", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    word = "{question}\nAnswer the question using a single word or phrase."
    assert found["prompts"] == {"all": CHAT.replace("what is it", word)}
    assert found["protocol"].startswith("llava-1.5 ")
    assert found["pictures"] == "padded to a square with the mean colour"
    assert run(["tasks", "show", "amber", "--model", "openai:gpt-4o", "--protocol", "bare", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["protocol"], list(found["prompts"])) == ("bare", ["all"])
    assert run(["tasks", "show", "pope", "--model", str(tmp_path), "--protocol", "x"]) == 2


def test_a_name_that_is_no_family_is_asked_by_the_benchmark() -> None:
    spec = ModelSpec(name="x", pretrained="somebody/else", backend="openai")
    assert outlines(asked_by("official", registry().task("pope"), spec), registry().task("pope")) == {
        "all": "<image>{question}"
    }


def test_a_template_without_an_end_is_one_line(tmp_path: Path) -> None:
    shutil.copytree(WEIGHTS / "scenes-base", tmp_path / "m")
    loops = "{% for a in range(9999) %}" * 3 + "x" + "{% endfor %}" * 3
    (tmp_path / "m" / "chat_template.jinja").write_text(loops)
    with pytest.raises(ModelError, match="m: "):
        shown(find(str(tmp_path / "m")), "<image>Is it?")


def test_samples_are_shown_exactly_as_a_model_gets_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    FAMILIES["llava"](tmp_path / "llava")
    data = write_parquet(tmp_path, TABLES["pope"])
    command = ["tasks", "show", "pope", "--samples", "2", "--data", f"pope={data}", "--json"]
    assert run(command) == 0
    own = json.loads(capsys.readouterr().out)
    assert own["sample prompts are"].startswith("the task's own text")
    assert run([*command, "--model", str(tmp_path / "llava")]) == 0
    exact = json.loads(capsys.readouterr().out)
    assert exact["sample prompts are"] == f"what {tmp_path / 'llava'} gets: text with special tokens"
    for given, read in zip(own["samples"], exact["samples"], strict=True):
        question = given["prompt"].removeprefix("<image>")
        word = "\nAnswer the question using a single word or phrase."
        assert read["prompt"] == CHAT.replace("what is it", question + word)
    assert run([*command[:-1], "--model", str(tmp_path / "llava")]) == 0
    assert f"prompt: {exact['samples'][0]['prompt']!r}" in capsys.readouterr().out
    assert run([*command, "--model", "openai:gpt-4o"]) == 0
    served = json.loads(capsys.readouterr().out)
    assert "which its server puts" in served["sample prompts are"]
    assert json.loads(served["samples"][0]["prompt"])[0]["content"][1]["text"] == own["samples"][0][
        "prompt"
    ].removeprefix("<image>")


THINKS = (
    "{% for m in messages %}{{ m['role'] }}: {% for p in m['content'] %}{% if p['type'] == 'image' %}<image>"
    "{% else %}{{ p['text'] }}{% endif %}{% endfor %}\n{% endfor %}assistant:"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
)
WAYS: dict[str, list[str]] = {
    "official": [],
    "own": ["--protocol", "mine.toml"],
    "of the task": ["--protocol", "mine.toml", "--prompt-suffix", " So?", "--prompt-suffix", "pope= Eh?"],
    "thinking": ["--thinking", "off"],
}


def test_what_is_sent_is_what_is_shown_with_the_same_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text('system = "Be careful."\n[tasks.pope]\nprefix = "Now: "\n')
    FAMILIES["llava"](tmp_path / "llava")
    Path("llava/chat_template.json").unlink(missing_ok=True)
    Path("llava/chat_template.jinja").write_text(THINKS)
    data = write_parquet(tmp_path, TABLES["pope"])
    prompts = set()
    for way, options in WAYS.items():
        asked = [*options, "--data", f"pope={data}"]
        assert run(["tasks", "show", "pope", "--samples", "3", "--model", "llava", "--json", *asked]) == 0
        shown = json.loads(capsys.readouterr().out)
        taken: list[str] = []
        monkeypatch.setattr(SharedImageLM, "generate_until", lambda self, requests, taken=taken: _take(requests, taken))
        out = ["--partial-data", "--out", way, "-q"]
        assert run(["eval", "--model", "llava", "--tasks", "pope", *asked, *out]) == 0
        assert [f"<s>{text}" for text in taken[:3]] == [row["prompt"] for row in shown["samples"]]
        entry = next(entry for entry in Board(tmp_path / way / "board").entries() if entry.headline)
        assert entry.provenance["protocol"] == shown["protocol"]
        assert entry.provenance.get("prompt suffix") == shown.get("prompt suffix")
        prompts.add(taken[0])
        capsys.readouterr()
    assert len(prompts) == len(WAYS)


def _take(requests: list[Any], taken: list[str]) -> list[str]:
    taken += [str(request.args[0]) for request in requests]
    return ["Yes"] * len(requests)


@pytest.mark.parametrize(
    ("options", "said"),
    (
        (["--protocol", "bare"], "--protocol: would not act without --model"),
        (["--thinking", "off"], "--thinking: would not act without --model"),
        (["--model", "llava", "--prompt-suffix", "mme=x"], "'mme': would not act"),
        (["--model", "llava", "--prompt-suffix", ""], "--prompt-suffix '': would not act"),
        (["--model", "llava", "--protocol", "mme.toml"], "would not act: it says nothing of pope"),
        (["--model", "llava", "--protocol", "pope.toml", "--prompt-suffix", "x"], "stands in place of its wordings"),
        (["--model", "qwen", "--protocol", "llava-1.5"], "picture = 'pad': would not act"),
        (["--model", "llava", "--thinking", "off"], "thinking = off: would not act"),
    ),
)
def test_what_would_not_act_is_refused(
    options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for task in ("mme", "pope"):
        Path(f"{task}.toml").write_text(f'[tasks.{task}]\nsuffix = " So?"\n')
    if "llava" in options:
        FAMILIES["llava"](tmp_path / "llava")
    if "qwen" in options:
        FAMILIES["qwen2_5_vl"](tmp_path / "qwen")
    assert run(["tasks", "show", "pope", *options]) == 2
    assert said in capsys.readouterr().err


def test_a_system_message_that_the_template_leaves_out_is_refused(tmp_path: Path) -> None:
    from harness.evaluation.generate import load_tasks, requests_of

    FAMILIES["llava_next"](tmp_path / "m")
    users_alone = THINKS.replace("in messages", "in messages if m['role'] == 'user'")
    (tmp_path / "m" / "chat_template.jinja").write_text(users_alone)
    lm = load(fetch(find(str(tmp_path / "m"))))
    task = load_tasks(
        [registry().task("pope")], data={"pope": str(write_parquet(tmp_path, TABLES["pope"]))}, partial_data=True
    )
    with pytest.raises(SettingError, match=r"system message 'Hush\.': would not act: the model's chat template"):
        requests_of(task["pope"], lm, 2, "Hush.")
    assert requests_of(task["pope"], lm, 2)
