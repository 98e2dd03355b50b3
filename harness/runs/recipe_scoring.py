"""How a recipe's base and checkpoints are scored: the settings of its [scoring], as `harness eval` takes them."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from harness.engine.config import EngineConfig
from harness.evaluation.eval_settings import EvalSettings, check_asking, why_idle
from harness.evaluation.protocol import OFFICIAL
from harness.runs.checkpoint_selection import tasks_of
from harness.runs.run_folder import CLAIM
from leaderboards.board.entry import BARE
from support.parsing import parse_object
from tasks.registry import registry
from trainers.config.recipe import PreferenceRecipe
from trainers.config.scoring import ScoringSettings


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
    )
    protocol = asked.protocol or OFFICIAL
    check_asking(protocol, engine, tasks_of(recipe))
    return replace(settings, protocol=protocol), engine


def asked_in_run(folder: Path, given: EngineConfig, tasks: Collection[str]) -> tuple[str, EngineConfig]:
    """The protocol of a run of ours, and how its models are asked on these tasks, with what is given in place of its
    recipe's values; of another folder the official one, and what is given."""
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
    )
    protocol = own.protocol or OFFICIAL
    # What a protocol says nothing of is asked bare by it.
    idle = bool(why_idle(protocol, engine, [registry().task(task) for task in tasks]))
    return BARE if idle else protocol, engine
