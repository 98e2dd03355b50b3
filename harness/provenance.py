"""What ran: digests of weights, adapter and prompts, code, versions, device. Kept in every entry, so that a number can be trusted later."""

import hashlib
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from harness.models.spec import ModelSpec

PACKAGES = ("torch", "transformers", "peft", "trl", "lm-eval", "datasets", "pillow")


def digest_of_folder(folder: Path) -> str:
    """sha256 over the names and bytes of all weights in a folder, 16 hex digits."""
    total = hashlib.sha256()
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")]):
        total.update(path.name.encode())
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()[:16]


def digest_of_model(spec: ModelSpec) -> dict[str, str]:
    """Digests of the weights a spec stands for; they change when a checkpoint is overwritten in place."""
    if spec.backend == "openai":
        return {"weights": f"{spec.pretrained}@{spec.url or 'default server'}"}
    local = Path(spec.pretrained).is_dir()
    found = {"weights": digest_of_folder(Path(spec.pretrained)) if local else f"{spec.pretrained}@{spec.revision or 'main'}"}
    if spec.adapter is not None:
        found["adapter"] = digest_of_folder(spec.adapter)
    return found


def digest_of_files(paths: list[Path]) -> str:
    """sha256 of some files' bytes, 16 hex digits."""
    return hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in paths)).hexdigest()[:16]


@cache
def environment() -> dict[str, str]:
    """Versions, code and device of this process."""
    import torch

    found = {"python": platform.python_version(), "vlm-harness": _version("vlm-harness")}
    found |= {package: _version(package) for package in PACKAGES}
    found["commit"] = _commit()
    found["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu ({torch.get_num_threads()} threads)"
    return found


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    """Commit of this source tree, "+dirty" where it has changes; "" where it is an installed copy."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return ""

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10, check=False).stdout.strip()

    return git("rev-parse", "--short=12", "HEAD") + ("+dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
