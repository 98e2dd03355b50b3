"""lm-eval's own command line runs our LM: tasks with pictures and without, in the new form and the old one."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.cli.lm_eval import NAME, _with_chat_template, main, register_lm, settings
from harness.engine.config import EngineConfig
from harness.models.spec import WEIGHTS
from support.errors import InputError, MissingWeights, ModelError
from tasks.registry import FOLDER

CHOICES = """
task: tiny_choices
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: ["yes", "no"]
doc_to_target: "{{{{answer}}}}"
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""

WRITTEN = """
task: tiny_written
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{do_sample: false, max_gen_toks: 4, until: []}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""


@pytest.fixture
def tasks_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two tasks without pictures, one of likelihoods and one of written answers, and one of ours."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    data = tmp_path / "questions.jsonl"
    colours = ("red", "blue", "green", "yellow", "white")
    data.write_text(
        "".join(json.dumps({"question": f"is a {colour} circle red?", "answer": "yes"}) + "\n" for colour in colours)
    )
    from lm_eval.tasks import _index

    # lm-eval reads its own 14,000 task files twice a command, for many seconds; none of them is asked here.
    its_own, found_in = Path(_index.__file__).parent, _index.TaskIndex._iter_yaml_files
    others = staticmethod(lambda root: () if root == its_own else found_in(root))
    monkeypatch.setattr(_index.TaskIndex, "_iter_yaml_files", others)
    folder = tmp_path / "tasks"
    folder.mkdir()
    for name, yaml in (("choices", CHOICES), ("written", WRITTEN)):
        (folder / f"{name}.yaml").write_text(yaml.format(data=data))
    shutil.copy(FOLDER / "scenes" / "scenes_pope.yaml", folder)
    return folder


def results(out: Path) -> dict[str, Any]:
    """What lm-eval wrote."""
    (file,) = out.rglob("results_*.json")
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def samples(out: Path, task: str) -> list[dict[str, Any]]:
    (file,) = out.rglob(f"samples_{task}_*.jsonl")
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def plain_answers(model: Path, limit: int) -> list[str]:
    """The same by lm-eval's own LM for such models, a question at a time."""
    from lm_eval import simple_evaluate
    from lm_eval.models.hf_vlms import HFMultimodalLM

    from harness.evaluation.generate import load_tasks
    from tasks.registry import registry

    loaded = load_tasks([registry().task("scenes_pope")])
    lm = HFMultimodalLM(pretrained=str(model), dtype="float32", device="cpu", batch_size=1)
    found = simple_evaluate(
        model=lm, tasks=list(loaded.values()), limit=limit, apply_chat_template=True, bootstrap_iters=0
    )
    assert found is not None
    return [line["resps"][0][0] for line in found["samples"]["scenes_pope"]]


def test_tasks_with_pictures_and_without_are_scored_as_by_lm_evals_own_lms(
    random_model: Path, tasks_folder: Path, tmp_path: Path
) -> None:
    from lm_eval.models.huggingface import HFLM

    out = tmp_path / "out"
    # The old form, without "run"; the test of the command has the new one.
    arguments = ["--model", NAME, "--model_args", f"pretrained={random_model},dtype=float32", "--apply_chat_template"]
    tasks = "--device cpu --limit 5 --tasks tiny_choices,tiny_written,scenes_pope --include_path".split()
    tasks.append(str(tasks_folder))
    assert main([*arguments, *tasks, "--output_path", str(out), "--log_samples"]) == 0
    found = results(out)
    assert found["config"]["model"] == NAME
    assert "acc,none" in found["results"]["tiny_choices"]
    assert "f1,none" in found["results"]["scenes_pope"]
    assert [sample["resps"][0][0] for sample in samples(out, "scenes_pope")] == plain_answers(random_model, 5)
    likelihoods = samples(out, "tiny_choices")
    written = samples(out, "tiny_written")
    assert len(likelihoods) == len(written) == 5
    plain = HFLM(pretrained=language_model(random_model), tokenizer=str(random_model), backend="causal", batch_size=1)
    asked = [request(plain, "generate_until", sample) for sample in written]
    assert [sample["resps"][0][0] for sample in written] == plain.generate_until(asked, disable_tqdm=True)
    for at in (0, 1):
        expected = plain.loglikelihood(
            [request(plain, "loglikelihood", sample, at) for sample in likelihoods], disable_tqdm=True
        )
        got = [float(sample["resps"][at][0][0]) for sample in likelihoods]
        assert got == pytest.approx([likelihood for likelihood, _ in expected], abs=1e-4)


def language_model(folder: Path) -> Any:
    import torch
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()


def request(lm: Any, kind: Any, sample: dict[str, Any], at: int = 0) -> Any:
    """The request of a logged sample."""
    from lm_eval.api.instance import Instance

    return Instance(kind, {}, tuple(sample["arguments"][f"gen_args_{at}"].values()), 0, ("tiny", 0, 1))


def test_a_model_is_named_as_everywhere_else(tmp_path: Path) -> None:
    named = settings(
        {"pretrained": "scenes-base", "features": "kept"},
        {"batch_size": "auto:4", "max_batch_size": None, "device": "cpu"},
    )
    engine = EngineConfig(dtype="float32", suffix="", features=Path("kept"), batch_size="auto", device="cpu")
    assert named[2].pop("template").source == "chat_template.jinja"
    assert named == (str(WEIGHTS / "scenes-base"), engine, {"peft": None, "use_safetensors": True})
    other = settings({"pretrained": "scenes-base", "dtype": "float64", "max_length": 100}, {})
    assert (other[1].dtype, other[2]["max_length"]) == ("float64", 100)
    with pytest.raises(InputError, match="did you mean 'scenes-base'"):
        settings({"pretrained": "scenes-bas"}, {})
    with pytest.raises(ModelError, match="lacks pretrained"):
        settings({}, {})
    with pytest.raises(ModelError, match="only harness eval keeps answers"):
        settings({"pretrained": "scenes-base", "answers": "x.sqlite"}, {})
    with pytest.raises(ModelError, match="behind a server"):
        settings({"pretrained": "openai:m"}, {})
    with pytest.raises(MissingWeights):
        settings({"pretrained": "llava-rlhf-7b"}, {})


def test_lm_evals_exit_code_is_ours(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--no-such-option", "x"]) == 2
    assert "unrecognized arguments" in capsys.readouterr().err
    assert main(["--help"]) == 0
    register_lm()  # a second time is no error


@pytest.mark.slow
def test_the_real_command(random_model: Path) -> None:
    code = "import sys; from harness.cli.lm_eval import main; sys.exit(main(sys.argv[1:]))"
    asked = ["run", "--model", NAME, "--model_args", f"pretrained={random_model},dtype=float32"]
    tasks = ["--tasks", "scenes_pope", "--include_path", str(FOLDER), "--limit", "4"]
    done = subprocess.run(
        [sys.executable, "-c", code, *asked, *tasks], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "|scenes_pope|" in done.stdout


@pytest.mark.parametrize(
    ("given", "more"),
    (
        (f"--model {NAME} --tasks x", "--apply_chat_template"),
        (f"run --model={NAME} --tasks x", "--apply_chat_template"),
        (f"-M {NAME} --apply_chat_template name", ""),
        (f"-M {NAME} --apply_chat_template=name", ""),
        ("--model hf --tasks x", ""),
        ("ls tasks", ""),
        ("--config ours.yaml", "--apply_chat_template"),
        ("--config bare.yaml", ""),
        ("-C ours.yaml --model hf", ""),
    ),
)
def test_our_models_are_asked_in_their_chat_template(
    given: str, more: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("ours.yaml").write_text(f"model: {NAME}\n")
    Path("bare.yaml").write_text(f"model: {NAME}\napply_chat_template: false\n")
    assert _with_chat_template(given.split()) == [*given.split(), *more.split()]


def test_the_chat_template_can_be_left_out() -> None:
    words = ["--model", NAME, "--apply_chat_template", "false", "--tasks", "x"]
    assert _with_chat_template(words) == ["--model", NAME, "--tasks", "x"]
    assert _with_chat_template(["--model", NAME, "--apply_chat_template=false"]) == ["--model", NAME]
