"""lm-eval's own command line with our LM in it, as `--model vlm-harness`.

    harness lm-eval run --model vlm-harness --model_args pretrained=FOLDER,dtype=float32 --tasks mmlu,scenes_pope
    --include_path tasks

`pretrained` is whatever `harness eval --model` takes: a name, a folder with weights or an adapter, a hub id. All other
arguments are lm-eval's, and those of SharedImageLM; `--apply_chat_template` is implied.
Tasks without images run through lm-eval's own code for language
models, on the same weights.
"""

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

import typer
import yaml

from harness.engine.config import EngineConfig, config_from
from harness.evaluation.protocol import OFFICIAL, as_asked
from harness.models.chat_templates import chat_template_of, pads_pictures
from harness.models.fetch import fetch
from harness.models.load import for_model, register
from harness.models.spec import find
from support.errors import ModelError, UsageError, one_line

log = logging.getLogger(__name__)

_TEMPLATE: Final = "--apply_chat_template"
NAME: Final = "vlm-harness"
"""What lm-eval's `--model` calls our LM."""


lm_eval_app = typer.Typer()


@lm_eval_app.command(
    "lm-eval", context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
)
def lm_eval_command(context: typer.Context) -> int:
    """Run lm-eval's own command line with our model class, as `--model vlm-harness`."""
    return main(context.args)


def main(arguments: Sequence[str]) -> int:
    """Run lm-eval's command line on these arguments; its exit code. Its errors are its own; those of finding a model
    are ours."""
    register_lm()
    from lm_eval.__main__ import cli_evaluate

    before = sys.argv
    sys.argv = ["lm-eval", *_with_chat_template(arguments)]  # lm-eval reads nothing else
    try:
        cli_evaluate()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except ValueError as error:
        if str(error).startswith("Tasks not found"):
            raise UsageError(f"lm-eval: {one_line(error)}; harness lm-eval ls tasks lists them") from None
        raise
    finally:
        sys.argv = before
    return 0


def _with_chat_template(words: Sequence[str]) -> list[str]:
    """The arguments with --apply_chat_template where our LM is asked and nothing is said of it: our models are trained
    on chats. `false` leaves it out."""
    given = [place for place, word in enumerate(words) if word.partition("=")[0] == _TEMPLATE]
    if given:
        at = given[-1]
        _, equals, value = words[at].partition("=")
        is_off = (value if equals else next(iter(words[at + 1 :]), "")).lower() == "false"
        return [*words[:at], *words[at + (1 if equals else 2) :]] if is_off else list(words)
    options = {**_read_config(words), **_values_of(words, {"--model": "model", "-M": "model"})}
    if options.get("model") != NAME or _TEMPLATE.removeprefix("--") in options:
        return list(words)
    log.info(f"questions are put into the model's chat template ({_TEMPLATE} false: they are not)")
    return [*words, _TEMPLATE]


def _read_config(words: Sequence[str]) -> dict[str, Any]:
    """What lm-eval's --config file holds; nothing where there is none that can be read, of which lm-eval tells."""
    path = _values_of(words, {"--config": "config", "-C": "config"}).get("config")
    try:
        found = {} if path is None else yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def _values_of(words: Sequence[str], options: Mapping[str, str]) -> dict[str, str]:
    """The values of some options, by the names they have in lm-eval's files."""
    found = {}
    for word, after in zip(words, [*words[1:], ""], strict=False):
        name, equals, value = word.partition("=")
        if name in options:
            found[options[name]] = value if equals else after
    return found


@cache
def register_lm() -> None:
    """Make lm-eval know our LM, and transformers our architectures."""
    from lm_eval.api.registry import register_model

    from harness.engine.lm import SharedImageLM
    from trainers.training.read_base import reading

    register()

    @register_model(NAME)
    class HarnessLM(SharedImageLM):
        """SharedImageLM from lm-eval's `--model_args`."""

        @classmethod
        def create_from_arg_obj(cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None) -> Any:
            """The LM of `pretrained`, as we load it where the arguments don't say otherwise."""
            folder, engine, rest = settings(arg_dict, additional_config or {})
            with reading(folder, folder, remote_code=bool(rest.get("trust_remote_code"))):
                return cls(folder, engine, **rest)


def settings(given: dict[str, Any], more: dict[str, Any]) -> tuple[str, EngineConfig, dict[str, Any]]:
    """Folder, settings and other arguments of SharedImageLM from lm-eval's: `given` by --model_args, `more` by
    --batch_size, --device and the like.

    UnknownModel, MissingWeights, ModelError.
    """
    if "pretrained" not in given:
        raise ModelError(f"{NAME}: --model_args lacks pretrained=MODEL")
    spec = find(str(given["pretrained"]), remote_code=given.get("trust_remote_code") is True)
    if spec.backend != "transformers":
        raise ModelError(f"{spec.name}: is behind a server; lm-eval's own --model local-chat-completions asks one")
    spec = fetch(replace(spec, revision=given.get("revision", spec.revision)))
    asked = {
        name: value
        for name, value in (given | more).items()
        if value is not None and name not in ("pretrained", "revision", "max_batch_size")
    }
    if "answers" in asked:  # lm-eval has settings that change answers and are not in the cache's key
        raise ModelError(f"{NAME}: --model_args answers: only harness eval keeps answers; lm-eval has --use_cache")
    if str(asked.get("batch_size", "")).startswith("auto"):
        asked["batch_size"] = "auto"  # lm-eval's "auto:4" measures again during the run; ours does not
    names = {field.name for field in fields(EngineConfig)}
    own = {name: asked.pop(name) for name in list(asked) if name in names}
    spec, engine = as_asked(spec, OFFICIAL), for_model(config_from(own, "--model_args"), spec)
    asked["template"] = template = chat_template_of(spec, engine)
    asked |= {"pad": True} if pads_pictures(spec, template) else {}
    peft = str(spec.adapter) if spec.adapter else None
    return str(spec.folder), engine, {"peft": peft, "use_safetensors": True} | asked
