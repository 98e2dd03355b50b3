"""What is installed: four top-level names of one distribution, data files included, usable from anywhere; and lm-eval's
own CLI.

The slow tests build the real wheel and run the real programs.
"""

import json
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import entry_points, packages_distributions
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tasks.registry import FOLDER

ROOT = Path(__file__).resolve().parents[1]


def test_the_five_names_belong_to_this_distribution_alone() -> None:
    owners = packages_distributions()
    for name in ("support", "tasks", "leaderboards", "trainers", "harness"):
        assert set(owners.get(name, ["vlm-harness"])) == {"vlm-harness"}


def test_every_trainer_of_the_group_can_be_loaded() -> None:
    installed = entry_points(group="harness.trainers")
    assert {"dpo", "sft", "scenes"} <= installed.names
    for point in installed:
        assert callable(point.load())


def _run(command: list[str], folder: Path, **options: Any) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, **options)


def _run_lm_eval(model: Path, tasks: str, *options: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    command = f"-m lm_eval --model hf-multimodal --include_path {FOLDER} --tasks {tasks} --device cpu"
    model_args = f"pretrained={model},dtype=float32"
    return _run(
        [sys.executable, *command.split(), "--model_args", model_args, "--apply_chat_template", *options], folder
    )


@pytest.mark.slow
def test_the_wheel_works_from_another_folder(tmp_path: Path) -> None:
    """Built, unpacked apart from the sources, and run there: listing tasks, reading recipes, finding weights."""
    build = [sys.executable, *f"-m pip wheel --quiet --no-deps --no-build-isolation -w {tmp_path} {ROOT}".split()]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(site)
    tops = {name.split("/")[0] for name in names if not name.split("/")[0].endswith(".dist-info")}
    assert tops == {"support", "tasks", "leaderboards", "trainers", "harness"}
    code = f"""if True:
        import harness, sys
        from harness.cli import main as cli
        from harness.models.spec import MODELS
        from pathlib import Path
        assert harness.__file__.startswith({str(site)!r}), harness.__file__
        embedded = [model for model in MODELS.values() if model.name.startswith("scenes")]
        assert all((Path(model.pretrained) / "model.safetensors").exists() for model in embedded)
        scored = "eval --model scenes-base --tasks scenes_mmhal --limit 4 --out run"
        commands = ("tasks", "train-then-eval scenes-demo --dry-run", scored)
        sys.exit(any(cli.run(command.split()) for command in commands))
    """
    done = _run([sys.executable, "-c", code], tmp_path, env={"PYTHONPATH": str(site)})
    assert done.returncode == 0, done.stderr
    assert "scenes_mmhal score" in done.stdout


@pytest.mark.slow
def test_plain_lm_eval_runs_our_tasks(random_model_folder: Path, tmp_path: Path) -> None:
    done = _run_lm_eval(random_model_folder, "scenes_pope", "--limit", "6", folder=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "|scenes_pope|" in done.stdout
    assert "accuracy" in done.stdout


@pytest.mark.slow
def test_plain_lm_eval_runs_a_benchmark_on_local_data(random_model_folder: Path, tmp_path: Path) -> None:
    Image.new("RGB", (30, 20), (90, 0, 0)).save(tmp_path / "1.png")
    rows = [
        {"question_id": "1", "image": "1.png", "question": f"Is it {thing}?", "answer": answer, "category": "OCR"}
        for thing, answer in (("red", "Yes"), ("blue", "No"))
    ]
    (tmp_path / "mme.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    metadata = json.dumps({"paths": {"mme": str(tmp_path)}, "partial_data": True})
    done = _run_lm_eval(random_model_folder, "mme", "--metadata", metadata, folder=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "|mme" in done.stdout
    assert "|perception" in done.stdout.replace(" ", "")


@pytest.fixture(scope="session")
def random_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from trainers.scenes.model import build_model, build_processor

    folder = tmp_path_factory.mktemp("models") / "random"
    build_model(seed=0).save_pretrained(folder)
    build_processor().save_pretrained(folder)
    return folder


def read_dockerfile() -> list[tuple[str, str]]:
    """Instructions with their arguments; continued lines are one."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def test_the_dockerfile_copies_what_is_there_and_starts_from_its_own_stages() -> None:
    steps = read_dockerfile()
    assert {word for word, _ in steps} <= {"ARG", "FROM", "RUN", "WORKDIR", "COPY", "USER", "ENV", "ENTRYPOINT", "CMD"}
    stages = [rest.split() for word, rest in steps if word == "FROM"]
    names = [stage[2] for stage in stages if len(stage) == 3]
    assert {stage[0] for stage in stages[1:]} <= {*names, "${VARIANT}"}
    assert {"cpu", "cuda"} <= set(names)
    assert ("ARG", "VARIANT=cuda") in steps[: next(at for at, step in enumerate(steps) if step[0] == "FROM")]
    copied = {name for word, rest in steps if word == "COPY" for name in rest.split()[:-1]}
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for name in copied:
        assert (ROOT / name).exists(), name
        assert f"!{name}" in ignored, name
    with (ROOT / "pyproject.toml").open("rb") as file:
        wanted = tomllib.load(file)["tool"]["setuptools"]["packages"]["find"]["include"]
    assert {name for name in wanted if "*" not in name} <= copied


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("docker") is None, reason="docker is not here")
def test_the_image_scores_the_embedded_model() -> None:
    subprocess.run(["docker", "build", "-t", "vlm-harness-test", str(ROOT)], check=True)
    scored = "eval --model scenes-base --tasks scenes_pope --limit 8 --out /tmp/run"
    subprocess.run(["docker", "run", "--rm", "vlm-harness-test", *scored.split()], check=True)
