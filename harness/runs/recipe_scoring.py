"""How a recipe's base and checkpoints are scored: the settings of its [scoring], as `harness eval` takes them."""

import logging
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from harness.engine.config import EngineConfig
from harness.evaluation.eval_settings import EvalSettings, check_asking, why_idle
from harness.evaluation.protocol import OFFICIAL
from harness.models.fetch import fetch
from harness.models.spec import find
from harness.runs.checkpoint_selection import tasks_of
from harness.runs.run_folder import AUTO, CLAIM, with_engine
from harness.serving.engine_host import EngineHost
from leaderboards.board.entry import BARE
from support.errors import SettingError
from support.parsing import parse_object
from tasks.registry import registry
from trainers.config.recipe import PreferenceRecipe, Recipe
from trainers.config.scoring import ScoringSettings

log = logging.getLogger(__name__)

R = TypeVar("R", bound=Recipe)


def scored_by(recipe: PreferenceRecipe, settings: EvalSettings) -> tuple[EvalSettings, EngineConfig]:
    """The settings with the recipe's protocol, and how its models are asked; SettingError.

    The seed stays the settings' own: trainings with other seeds are asked the same questions of a --limit.
    """
    asked = recipe.scoring
    if asked is None:
        return replace(settings, protocol=OFFICIAL), EngineConfig()
    engine = EngineConfig(
        suffix=asked.prompt_suffix,
        suffixes=asked.prompt_suffixes,
        thinking=asked.thinking,
        thinking_tokens=asked.thinking_tokens,
        **_computed_by(asked),
    )
    if why := _why_not_served(recipe, engine.engine):
        raise SettingError(f"engine = {engine.engine}: {why}")
    protocol = asked.protocol or OFFICIAL
    check_asking(protocol, engine, tasks_of(recipe))
    return replace(settings, protocol=protocol), engine


def settle_engine(recipe: R, *, remote_code: bool) -> R:
    """The recipe with the engine that `auto` stands for here, the same one for the base and all checkpoints."""
    if recipe.scoring is None or recipe.scoring.engine != AUTO or recipe.base is None:
        return recipe
    spec = fetch(find(recipe.base, remote_code=remote_code))
    if isinstance(recipe, PreferenceRecipe) and (why := _why_not_served(recipe, "vllm")):
        log.info("%s: engine auto: own, for %s", spec.name, why)
        return with_engine(recipe, None)
    chosen = EngineHost().choose(EngineConfig(**_computed_by(recipe.scoring)), spec)
    return with_engine(recipe, None if chosen.engine == "own" else chosen.engine)


def _computed_by(scoring: ScoringSettings) -> dict[str, Any]:
    """The settings that say what computes answers."""
    return {
        "engine": scoring.engine or "own",
        "engine_set": scoring.engine_set,
        "engine_url": scoring.engine_url,
        "dtype": scoring.dtype,
    }


def _why_not_served(recipe: PreferenceRecipe, engine: str) -> str:
    """Why the adapters that a recipe trains can't be served by an engine."""
    lora = recipe.training.lora
    if lora is None or engine in ("own", AUTO):
        return ""
    if engine == "sglang":
        return "SGLang gets no adapters, which this recipe trains; use vllm"
    return "vLLM serves no adapters by DoRA, which this recipe trains; use own" if lora.dora else ""


def asked_in_run(
    folder: Path, given: EngineConfig, tasks: Collection[str], *, own_engine: bool = True
) -> tuple[str, EngineConfig]:
    """The protocol of a run of ours, and how its models are asked on these tasks, with what is given in place of its
    recipe's values; of another folder the official one, and what is given. `own_engine`: by the run's engine, too."""
    try:
        own = ScoringSettings.model_validate(parse_object((folder / CLAIM).read_bytes())["recipe"].get("scoring") or {})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ValidationError):
        return OFFICIAL, given
    suffixes = {task: text for task, text in own.prompt_suffixes.items() if task in tasks}
    engine = replace(
        given,
        suffix=own.prompt_suffix if given.suffix is None else given.suffix,
        suffixes=suffixes | dict(given.suffixes),
        thinking=given.thinking or own.thinking,
        thinking_tokens=own.thinking_tokens if given.thinking_tokens is None else given.thinking_tokens,
        **(_computed_by(own) if own_engine else {}),
    )
    protocol = own.protocol or OFFICIAL
    # What a protocol says nothing of is asked bare by it.
    idle = bool(why_idle(protocol, engine, [registry().task(task) for task in tasks]))
    return BARE if idle else protocol, engine
