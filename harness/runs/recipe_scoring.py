"""How a recipe's base and checkpoints are scored: the settings of its [scoring], as `harness eval` takes them."""

from dataclasses import replace

from harness.engine.config import EngineConfig
from harness.evaluation.eval_settings import EvalSettings, check_suffixes
from harness.evaluation.protocol import OFFICIAL
from harness.runs.checkpoint_selection import tasks_of
from trainers.config.recipe import PreferenceRecipe


def scored_by(recipe: PreferenceRecipe, settings: EvalSettings) -> tuple[EvalSettings, EngineConfig]:
    """The settings with the recipe's seed and protocol, and how its models are asked; SettingError."""
    asked = recipe.scoring
    if asked is None:
        return replace(settings, seed=recipe.seed, protocol=OFFICIAL), EngineConfig()
    engine = EngineConfig(
        suffix=asked.prompt_suffix,
        suffixes=asked.prompt_suffixes,
        thinking=asked.thinking,
        thinking_tokens=asked.thinking_tokens,
    )
    check_suffixes(engine.suffixes, tasks_of(recipe))
    return replace(settings, seed=recipe.seed, protocol=asked.protocol or OFFICIAL), engine
