"""What a recipe would do, in words, for --dry-run."""

from collections.abc import Sequence

from trainers.config.data import PreferenceFile
from trainers.config.recipe import PreferenceRecipe, PretrainingRecipe
from trainers.config.scoring import ScoringSettings


def pretraining_steps(recipe: PretrainingRecipe) -> list[str]:
    """One line a stage."""
    stages = {name: getattr(recipe.pretraining, name) for name in ("see", "speak", "believe")}
    return [
        f"{name}: {stage.steps} steps of {stage.batch_size} images, learning rate {stage.learning_rate:g}"
        for name, stage in stages.items()
    ]


def training_steps(recipe: PreferenceRecipe, dataset: PreferenceFile, world: int) -> list[str]:
    """One line a stage of a recipe that reads its data and trains on `world` processes."""
    from trainers.training.trl_arguments import split_batch

    training = recipe.training
    per_process, accumulated = split_batch(training, world)
    adapters = "all weights" if training.lora is None else f"LoRA r {training.lora.r}"
    pairs = f"pairs by rule {dataset.rule!r}, where they are not pairs already"
    rows = "the best answer of each row" if dataset.take == "best" else pairs
    batch = f"batches of {training.batch_size} ({world} processes x {per_process} pairs x {accumulated} accumulated)"
    pace = f"{training.epochs:g} epochs, learning rate {training.learning_rate:g}"
    loss = "" if recipe.trainer == "sft" else f", loss {training.loss!r}, beta {training.beta:g}"
    saves = f"every {training.save_steps} steps" if training.save_steps else f"{training.checkpoints} times"
    return [
        f"read {dataset.read}: {rows}; {dataset.test_share:.1%} of prompts held out",
        f"{recipe.trainer} on {recipe.base}, {adapters}: {batch}, {pace}{loss}",
        f"save {saves}" + (f", the last {training.keep} stay" if training.keep else ""),
    ]


def steps_of(recipe: PreferenceRecipe, limit: int | None, scoring: str, seeds: Sequence[int] = ()) -> list[str]:
    """One line a stage; `scoring` says what the scoring of checkpoints takes, `seeds` are those to train with, where
    they are several."""
    data, training = recipe.data, recipe.training
    documents = f" ({limit} documents each)" if limit else ""
    asked = f", {_words(recipe.scoring)}" if recipe.scoring is not None else ""
    steps = [f"score {recipe.base} on {', '.join(recipe.tasks)}{documents}{asked}"]
    if data is not None:
        count = min(limit, data.instructions) if limit else data.instructions
        answers = min(data.answers, len(data.pool))
        steps += [
            f"{count} instructions from {', '.join(source.name for source in data.sources) or data.source}",
            f"{answers} answers each from {', '.join(member.name for member in data.pool)}: {count * answers} answers",
            f"{count} calls to judge {data.judge} ({answers} answers a call)",
            f"pairs by rule {data.rule!r}",
        ]
    if recipe.dataset is not None:
        steps.append(
            f"read {recipe.dataset.read}; of rated answers {recipe.dataset.take} by rule {recipe.dataset.rule!r}"
        )
    adapters = "all weights" if training.lora is None else f"LoRA r {training.lora.r}"
    numbers = f"{training.epochs:g} epochs, learning rate {training.learning_rate:g}, {adapters}"
    each = f", with each of the seeds {', '.join(map(str, seeds))}" if seeds else ""
    steps.append(f"{recipe.trainer}: batches of {training.batch_size}, {numbers}{each}")
    if recipe.control:
        steps.append("the same by SFT on the chosen answers, as control")
    ends = "verdicts, best checkpoint, model cards, report.md with its plot"
    over = ["the mean over seeds against the base, report.md of all seeds"] if seeds else []
    return [*steps, f"score checkpoints: {scoring}", ends, *over]


def _words(scoring: ScoringSettings) -> str:
    """How models are asked."""
    return ", ".join(f"{name} = {value!r}" for name, value in scoring.model_dump(exclude_unset=True).items())
