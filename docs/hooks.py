"""What the documentation site has beside docs/*.md: the repository's own pages, the reference and the gallery.

They are made when the site is built (`make docs`), from the code and by the project's own commands.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
REPOSITORY: Final = {name: f"{name}.md" for name in ("ARCHITECTURE", "CONTRIBUTING", "CHANGELOG")} | {
    "index": "README.md"
}
"""Page of the site, without `.md` -> file of the repository."""

REFERENCE: Final = ("reference/commands.md", "reference/recipes.md", "reference/python.md")
DEMO: Final = ROOT / "tests/runs/demo"
"""A finished run of `harness train-then-eval scenes-demo`, without weights."""

_RUN: Final = "runs/scenes-demo"
_PAIR: Final = f"scenes-base {_RUN}/checkpoint-47"
_CHECK: Final = f"check --baseline {_RUN}/board --baseline-model scenes-base --model {_RUN}/checkpoint-47"
GALLERY: Final = {
    "board.html": f"leaderboard {_RUN} --base scenes-base --html board.html",
    "compare.txt": f"compare {_PAIR} --board {_RUN}",
    "gate.md": f"{_CHECK} --tolerance scenes_chair.coverage=2 --comment gate.md",
    "gate.xml": f"{_CHECK} --junit gate.xml",
    "board.tex": f"leaderboard {_RUN} --base scenes-base --headline --format latex",
}
"""File of the gallery -> the command that writes or prints it."""

GENERATED: Final = (
    *(f"{name}.md" for name in REPOSITORY),
    *REFERENCE,
    *(f"gallery/{name}{'.txt' * name.endswith('.md')}" for name in GALLERY),
)
GATE_FAILED: Final = 3


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are not files under docs/."""
    from mkdocs.structure.files import File

    made = {f"{name}.md": ROOT.joinpath(source).read_text(encoding="utf-8") for name, source in REPOSITORY.items()}
    made |= dict(zip(REFERENCE, (list_commands(), list_recipes(), list_python()), strict=True))
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    for name, text in make_gallery().items():
        files.append(File.generated(config, f"gallery/{name}{'.txt' * name.endswith('.md')}", content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """A page as the site needs it: links from where it stands there, and lists after an empty line."""
    return separate_lists(move_links(markdown))


def move_links(markdown: str) -> str:
    """Links between README.md and docs/ as links within the site; a file that is no page of it is named only."""
    markdown = (
        markdown.replace("](docs/", "](").replace("](README.md", "](index.md").replace("](../README.md", "](index.md")
    )
    markdown = re.sub(r"\]\(\.\./(ARCHITECTURE|CONTRIBUTING|CHANGELOG)\.md", r"](\1.md", markdown)
    markdown = re.sub(r"(?<!!)\[([^\]]+)\]\(\.\./(?!reference/)[^)]+\)", r"\1", markdown)
    return re.sub(r"(?<!!)\[([^\]]+)\]\((?:LICENSE|CITATION\.cff|Dockerfile|action\.yml|Makefile)\)", r"\1", markdown)


def separate_lists(markdown: str) -> str:
    """An empty line before each list that follows a paragraph: the site's markdown needs one, GitHub's does not."""
    lines: list[str] = []
    fenced = False
    for line in markdown.split("\n"):
        fenced ^= line.startswith("```")
        before = lines[-1] if lines else ""
        starts = re.match(r"(?:[-*]|1\.) ", line) is not None
        if starts and not fenced and before.strip() and not re.match(r"(?:[-*]|\d+\.) |\s", before):
            inside = next((one for one in reversed(lines) if not one.strip() or re.match(r"(?:[-*]|\d+\.) ", one)), "")
            if not inside.strip():
                lines.append("")
        lines.append(line)
    return "\n".join(lines)


def list_commands() -> str:
    """Every command with its `--help`, as it is printed."""
    from harness.cli.lazy import COMMANDS

    lines = ["# Commands", "", "What `harness COMMAND --help` prints.", ""]
    for name, command in COMMANDS.items():
        if not command.help or name == "lm-eval":
            continue
        for path in _paths_of(name):
            lines += [f"{'#' * (1 + len(path))} harness {' '.join(path)}", "", "```text"]
            lines += [run_harness([*path, "--help"]).strip(), "```", ""]
    return "\n".join(lines)


def _paths_of(name: str) -> list[list[str]]:
    from harness.cli.lazy import load_command

    below = getattr(load_command(name), "commands", {})
    return [[name], *([name, one] for one in below)]


def list_recipes() -> str:
    """Every recipe with its steps and its file, where each number has its source."""
    from trainers.config.recipe import known_recipes

    lines = [
        "# Recipes",
        "",
        "What `harness recipes show NAME` prints. [Training](../training.md) says what the keys do.",
        "",
    ]
    for name in known_recipes():
        lines += [f"## {name}", "", "```text", run_harness(["recipes", "show", name]).strip(), "```", ""]
    return "\n".join(lines)


def list_python() -> str:
    """Every name that `import harness` offers, for mkdocstrings."""
    import harness
    from harness import _PLACES

    lines = ["# Python API", "", "What `import harness` offers; [Python](../python.md) shows each at work.", ""]
    for name in harness.__all__:
        if name in _PLACES:
            module, _, other = _PLACES[name].partition(":")
            lines += [f"::: {module}.{other or name}", ""]
    return "\n".join(lines)


def make_gallery() -> dict[str, str]:
    """The files of the gallery, made in a folder where the run lies as its reader has it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "runs").mkdir()
        (folder / _RUN).symlink_to(DEMO)
        made = {}
        for file, command in GALLERY.items():
            printed = run_harness(command.split(), folder)
            made[file] = (folder / file).read_text(encoding="utf-8") if (folder / file).exists() else printed
        return made


def run_harness(words: list[str], folder: Path = ROOT) -> str:
    """What `harness WORDS` prints in 100 columns; a command that fails ends the build, a gate that fails does not."""
    own = ROOT / ".venv/bin/python"  # with the extra eval, which renders the pictures of the gallery's page
    call = [str(own) if own.exists() else sys.executable, "-c", "from harness.cli.main import main; main()", *words]
    environ = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(call, cwd=folder, env=environ, capture_output=True, text=True, check=False)
    if done.returncode not in (0, GATE_FAILED):
        raise RuntimeError(f"harness {' '.join(words)}: exit code {done.returncode}: {done.stderr.strip()[-500:]}")
    return done.stdout
