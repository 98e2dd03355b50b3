"""The benchmark authors' own judge prompts, fetched when the user asks for them (`harness eval --official-prompts`).

    fetch(SOURCES["mmhal"])         # the authors' template, from their repository at a pinned commit

The authors' texts are not part of this project (ours are in `tasks/prompts/`). Each is fetched once, kept in the user's
cache folder, and used only if its sha256 is the one written here. Errors: `RunError`, one line that names address and
reason.
"""

import ast
import hashlib
import os
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Final

from support.errors import RunError
from support.files import atomic_write_text


@dataclass(frozen=True, kw_only=True)
class PromptSource:
    """Where an official prompt is."""

    url: str
    """At a pinned commit."""
    sha256: str
    """Of the template itself, UTF-8, as `template` takes it out of the file."""
    template: Callable[[str], str]
    """The file's text -> the template's."""


TIMEOUT: Final = 30
LARGEST: Final = 2**20
"""Bytes that are read of a file; its digest tells whether they are all."""
"""Seconds."""


def fetch(source: PromptSource) -> str:
    """The template of `source`, from the cache folder where it is there."""
    kept = prompts_folder() / f"{source.sha256}.txt"
    if kept.is_file():
        text = kept.read_text(encoding="utf-8")
        if _compute_digest(text) == source.sha256:
            return text
    text = source.template(_download(source.url))
    if _compute_digest(text) != source.sha256:
        raise RunError(
            f"{source.url}: the prompt in it has sha256 {_compute_digest(text)}, not {source.sha256}: not used"
        )
    kept.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(kept, text)
    return text


def _download(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as reply:
            return str(reply.read(LARGEST).decode("utf-8"))
    except (HTTPException, OSError, UnicodeDecodeError) as error:
        raise RunError(f"{url}: can't fetch the official prompt: {getattr(error, 'reason', error)}") from None


def prompts_folder() -> Path:
    """Where prompts that were fetched are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vlm-harness" / "prompts"


def _compute_digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def string_of(variable: str) -> Callable[[str], str]:
    """Reads the text assigned to `variable` anywhere in a Python file, without running the file."""

    def template(code: str) -> str:
        for node in ast.walk(ast.parse(code)):
            match node:
                case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=str(text))) if name == variable:
                    return text
        raise RunError(f"no text is assigned to {variable!r} in the file")

    return template


def pieces_of(function: str) -> Callable[[str], str]:
    """Reads the prompt that `function` builds (prompt = ..., prompt += ...), with a NUL in place of data."""

    def template(code: str) -> str:
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.FunctionDef) and node.name == function:
                assigned = [part for part in ast.walk(node) if isinstance(part, (ast.Assign, ast.AugAssign))]
                found = sorted(filter(_sets_prompt, assigned), key=lambda part: part.lineno)
                return "".join(_text_or_nul(part.value) for part in found)
        raise RunError(f"there is no function {function!r} in the file")

    return template


def f_string_of(variable: str) -> Callable[[str], str]:
    """Reads the f-string assigned to `variable` anywhere in a Python file, with a NUL in place of data."""

    def template(code: str) -> str:
        for node in ast.walk(ast.parse(code)):
            match node:
                case ast.Assign(targets=[ast.Name(id=name)], value=ast.JoinedStr(values=parts)) if name == variable:
                    return "".join(map(_text_or_nul, parts))
        raise RunError(f"no text is assigned to {variable!r} in the file")

    return template


def _sets_prompt(node: ast.Assign | ast.AugAssign) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return any(isinstance(target, ast.Name) and target.id == "prompt" for target in targets)


def _text_or_nul(value: ast.expr) -> str:
    return str(value.value) if isinstance(value, ast.Constant) else "\0"


def _raw_url(repository: str, commit: str, path: str) -> str:
    return f"https://raw.githubusercontent.com/{repository}/{commit}/{path}"


HALLUSION: Final = _raw_url("tianyi-lab/HallusionBench", "08e51de4c41600d01701d38878d6235f0d119c7b", "utils.py")
SOURCES: Final[Mapping[str, PromptSource]] = {
    "mmhal": PromptSource(
        url=_raw_url("llava-rlhf/LLaVA-RLHF", "830a083fd83e607da3c35f2e6aef833523c1e722", "Eval/eval_gpt_mmhal.py"),
        sha256="2c73d8c50f1740d000fae62cfeed103c2f7a5bcfa904b27e6e09900e7ce600cc",
        template=string_of("template"),
    ),
    "mmvet": PromptSource(
        url=_raw_url("yuweihao/MM-Vet", "7d717c2f54a584b7ed363d66e6481ce1bf648538", "mm-vet_evaluator.py"),
        sha256="d1b3e0a5b4e72c888b77164489d705bba4dd149934fff564dfba6443d81afe3f",
        template=string_of("prompt"),
    ),
    "llava_bench": PromptSource(
        url=_raw_url("haotian-liu/LLaVA", "181a2f811f1eb0b794c25e87204491d812c05f8d", "llava/eval/table/rule.json"),
        sha256="dd7345a44ce9f7a24e51a30ee030cdab32346f9d08e3359c80545ff1312b1e07",
        template=str,
    ),
    "hallusionbench": PromptSource(
        url=HALLUSION,
        sha256="3cd312a11a1c4219c437fcd54fd19c8e559705500da0d951643987a79ab8baa4",
        template=pieces_of("evaluate_by_chatgpt"),
    ),
    "hallusionbench_same": PromptSource(
        url=HALLUSION,
        sha256="05fc25415f411dea33a5872c32dabeab0a99aa52b5692ff805579bbaba9a8d5a",
        template=pieces_of("check_same_by_chatgpt"),
    ),
    "vl_rewardbench": PromptSource(
        url=_raw_url("vl-rewardbench/VL_RewardBench", "e492d6548558d9fcac8959de60be8f4e8a640dc8", "prompt.py"),
        sha256="b027cdf69246ea15d3143bd9baddfa77bf50629d2242b1ceacc0c2239754b840",
        template=f_string_of("prompt_str"),
    ),
    "multimodal_rewardbench": PromptSource(
        url=_raw_url(
            "facebookresearch/multimodal_rewardbench",
            "3366b34a880ff612f7dc78b9a69e54e359202fad",
            "scripts/1_run_model_as_judge_gpt4o.py",
        ),
        sha256="647abec63f21f930bfb0c670d24cf962cf8c82e2a546fdf3801c9884251addad",
        template=string_of("judge_prompt"),
    ),
}
"""By the names under which tasks ask for them."""
