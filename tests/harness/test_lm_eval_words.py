"""Command lines of lm-eval do with `harness eval` what they say, or are refused."""

import pytest

from harness.cli.lm_eval_words import as_ours
from harness.cli.main import run
from support.errors import SettingError, UsageError

ACCEPTED = {
    "--model hf --model_args pretrained=X,dtype=float16 -t pope": "-t pope --model X --model-set dtype=float16",
    "--model=hf-multimodal --model_args=pretrained=X": "--model X",
    "--model-args pretrained=X peft=A trust_remote_code=True": "--model A --model-base X --trust-remote-code",
    "-a pretrained=X --model X": "--model X",
    '--model_args {"pretrained":"X","max_images":4}': "--model X --model-set max_images=4",
    "-M vllm-vlm -a pretrained=X,tensor_parallel_size=2": "--model X --serve vllm --serve-set tensor-parallel-size=2",
    "--model local-chat-completions --model_args model=m,base_url=http://h/v1/chat/completions": (
        "--model openai:m --model-url http://h/v1"
    ),
    "--gen_kwargs max_gen_toks=64,temperature=0,do_sample=False": "--max-new-tokens 64",
    "--gen_kwargs=repetition_penalty=1.1": "--repetition-penalty 1.1",
    "--num_fewshot 0 --log_samples --apply_chat_template --model X": "--model X",
    "--apply_chat_template true --system_instruction Hi": "--protocol system:Hi",
    "--model X --limit 3 --model-set a=b": "--model X --limit 3 --model-set a=b",
}


@pytest.mark.parametrize("given", ACCEPTED)
def test_words_of_lm_eval_become_ours(given: str) -> None:
    assert as_ours(given.split()) == ACCEPTED[given].split()


REFUSED = {
    "--num_fewshot 5": "--num_fewshot 5: would not act: tasks are asked without examples",
    "--gen_kwargs temperature=0.7": "temperature=0.7: would not act: answers are decoded greedily",
    "--gen_kwargs until=.": "--gen_kwargs until=.: would not act",
    "--gen_kwargs": "requires an argument",
    "--model_args": "requires an argument",
    "--model_args dtype=float16": "--model_args: lacks pretrained=MODEL",
    "--model other --model_args pretrained=X": "--model other: --model_args names another model",
    "--model_args pretrained=X,revision=abc": "revision=abc: fetch that revision",
    "--model_args pretrained": "must be NAME=VALUE",
    "--model_args {x": "not JSON",
    "--apply_chat_template chatml": "name a file with the template by --chat-template",
    "--model openai-chat-completions --model_args model=m,num_concurrent=8": "num_concurrent=8: would not act",
}


@pytest.mark.parametrize("given", REFUSED)
def test_words_that_would_not_act_are_refused(given: str) -> None:
    with pytest.raises((SettingError, UsageError)) as refused:
        as_ours(given.split())
    assert REFUSED[given] in str(refused.value)


def test_eval_takes_them(capsys: pytest.CaptureFixture[str], tmp_path: object) -> None:
    words = ["--model", "hf", "--model_args", "pretrained=scenes-base", "-t", "scenes_pope", "-L", "2", "-b", "2"]
    assert run(["eval", *words, "--output_path", str(tmp_path), "--log_samples", "--dry-run"]) == 0
    assert "scenes_pope" in capsys.readouterr().out
    assert run(["eval", *words, "--num_fewshot", "3"]) == 2
    assert "would not act" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "told"),
    (
        (["--device", "cuda:99"], "device = 'cuda:99': is not here: torch finds"),
        (["--device", "nosuch"], "device = 'nosuch': is no device of torch's"),
        (["--dtype", "float99"], "dtype = 'float99': is no type of torch's"),
    ),
)
def test_a_device_or_type_that_is_not_there_is_a_mistake(
    option: list[str], told: str, tmp_path: object, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["eval", "--model", "scenes-base", "--tasks", "scenes_pope", "--limit", "1", "--out", str(tmp_path)]
    assert run([*words, *option]) == 2
    assert told in capsys.readouterr().err
