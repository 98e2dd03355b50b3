"""What ran: weights and adapter, code, versions, device. Kept in every entry, so that a number can be trusted later."""

import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from harness.models.file_digests import digest_of_folder
from harness.models.spec import ModelSpec
from leaderboards.board.entry import RECIPE, TRAINING_SAVE, TRAINING_SEED
from support.parsing import parse_json
from tasks.judges.addresses import NO_KEY, OPENAI, server_of
from trainers.training.foreign_code import CODE, digest_of_code

PACKAGES = ("torch", "transformers", "peft", "trl", "lm-eval", "datasets", "pillow")


def digest_of_model(spec: ModelSpec, *, strict: bool = False) -> dict[str, str]:
    """Digests of the weights a spec stands for; they change when a checkpoint is overwritten in place."""
    strict = strict or spec.strict
    if spec.digests:
        return dict(spec.digests)
    if spec.backend == "openai":
        server = server_of(spec.url, name=spec.pretrained, key=NO_KEY)
        return {"weights": f"{spec.pretrained}@{'default server' if server.url == OPENAI else server.shown}"}
    local = Path(spec.pretrained).is_dir()
    hub = f"{spec.pretrained}@{spec.revision or 'main'}"
    found = {"weights": digest_of_folder(Path(spec.pretrained), strict=strict) if local else hub}
    if spec.adapter is not None:
        found["adapter"] = digest_of_folder(spec.adapter, strict=strict)
    if spec.remote_code and (code := digest_of_code(spec.folder or Path(spec.pretrained))):
        found[CODE] = code
    return found


def training_of(spec: ModelSpec, task: str) -> dict[str, str]:
    """What a checkpoint's note says of its training: by which settings, seed and data, after how many steps, and how
    many rows of the data show pictures of `task`."""
    folder = Path(spec.pretrained) if spec.adapter is None else spec.adapter
    try:
        note = parse_json((folder / "checkpoint.json").read_text(encoding="utf-8"))
        leaks = note.get("leaks", {}).get(task)
        known = {"training data": "data", RECIPE: "settings", TRAINING_SEED: "seed", TRAINING_SAVE: "save"}
        found = {fact: str(note[key]) for fact, key in known.items() if key in note}
        return found | ({"leaks": str(int(leaks))} if leaks is not None else {})
    except (OSError, ValueError, TypeError, AttributeError):  # no checkpoint of ours
        return {}


@cache
def environment() -> dict[str, str]:
    """Versions, code and device of this process."""
    import torch

    found = {"python": platform.python_version(), "vlm-harness": _version("vlm-harness")}
    found |= {package: _version(package) for package in PACKAGES}
    found["image backend"] = f"Pillow {_version('pillow')}"
    found["commit"] = _commit()
    return found | {"device": device_name("cuda" if torch.cuda.is_available() else "cpu")}


def device_name(kind: str) -> str:
    """The GPU's name, or how many threads the CPU has."""
    import torch

    return torch.cuda.get_device_name() if kind == "cuda" else f"cpu ({torch.get_num_threads()} threads)"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    """Commit of this source tree, "+dirty" where it has changes; "" where it is an installed copy."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return ""

    def git(*words: str) -> str:
        command = ["git", "-C", str(root), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=False).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no")
    return git("rev-parse", "--short=12", "HEAD") + ("+dirty" if changed else "")
