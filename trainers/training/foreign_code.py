"""Python code that a checkpoint names: nothing of it runs unless the user allows it by --trust-remote-code.

transformers runs files that `auto_map` names in a configuration, `custom_generate/generate.py`, and kernels of the hub
that `attn_implementation` names. Without the user's word they are refused, or left alone where transformers has the
class itself; with it, the digest of the code is part of what identifies the model.
"""

import hashlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from support.errors import InputError, first_few

log = logging.getLogger(__name__)

OPTION: Final = "--trust-remote-code"
CODE: Final = "code"
"""In provenance and in checkpoint.json: the digest of the Python files that were allowed to run."""
_GENERATE: Final = "custom_generate/generate.py"
_LARGE: Final = 16 << 20
"""Bytes above which a JSON file is a vocabulary or a list of weights, not a configuration."""


def check_code(folder: Path, name: str, allowed: bool) -> None:
    """InputError for code outside of the checkpoint's folder: kernels of the hub, or with `allowed` another
    repository's files, of which no digest is known."""
    found = list(_walk(folder))
    if not allowed and (kernels := sorted({text for key, text in found if key.endswith("implementation")})):
        raise InputError(f"{name}: names code of the hub, {first_few(kernels)}, which runs only with {OPTION}")
    if allowed and (others := sorted({text for key, text in found if key == "auto_map" and "--" in text})):
        raise InputError(
            f"{name}: names code of another repository, {first_few(others)}; copy its files into {folder}, and take "
            "the repository's name out of auto_map"
        )


def refuse_code(folder: Path, name: str) -> InputError:
    """The error for a checkpoint that can't be loaded without code of its own."""
    files = first_few(find_code(folder) or [str(folder)])
    return InputError(f"{name}: needs Python code of its own, {files}, which runs only with {OPTION}")


def asks_for_code(error: BaseException) -> bool:
    """True for transformers' refusal to run code."""
    return isinstance(error, ValueError) and "trust_remote_code" in str(error)


def tell_unused_code(folder: Path, name: str, allowed: bool) -> None:
    """Log that code of a model that was loaded without it is left alone: its authors' numbers may be of that code."""
    if not allowed and (files := find_code(folder)):
        log.info(
            "%s: its own code (%s) is not run; the classes of the libraries stand in for it", name, first_few(files)
        )


def find_code(folder: Path) -> list[str]:
    """The files of code that a checkpoint names: "modeling_x.py", or "OWNER/NAME--modeling_x.py" of another one."""
    named = {f"{text.rpartition('.')[0] or text}.py" for key, text in _walk(folder) if key == "auto_map"}
    return sorted(named | ({_GENERATE} if (folder / _GENERATE).is_file() else set()))


def digest_of_code(folder: Path) -> str:
    """sha256 of all Python files in a folder, 16 hex digits; "" without one."""
    files = sorted(path for path in folder.rglob("*.py") if path.is_file())
    total = hashlib.sha256()
    for path in files:
        total.update(path.relative_to(folder).as_posix().encode() + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:16] if files else ""


def _walk(folder: Path) -> Iterator[tuple[str, str]]:
    """What names code in a folder's configurations, wherever it stands in them: the key and each of its texts."""
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else []:
        try:
            held = json.loads(path.read_bytes()) if path.stat().st_size <= _LARGE else None
        except (OSError, ValueError, RecursionError):
            continue  # whoever reads it says so
        stack: list[tuple[str, Any]] = [("", held)]
        while stack:
            key, value = stack.pop()
            if isinstance(value, str):
                if key == "auto_map" or (key.endswith("implementation") and "/" in value):
                    yield key, value
                continue
            inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
            within = key == "auto_map" or key.endswith("implementation")
            stack += [(key if within else str(name), each) for name, each in inner]
