"""What a training log, a board and the model itself tell about a checkpoint."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.models.load import register
from harness.models.spec import find
from harness.runs.checkpoint_selection import Scores, Selection, select_checkpoint
from harness.runs.image_use_checks import ImageUseChecks, check_merging, draw_pairs, measure_image_use, render
from harness.runs.report import describe_selection
from harness.runs.training_alarms import LogLine, find_alarms, find_check_alarms, lengths_of, read_log, training_table
from leaderboards.board.board import Board
from leaderboards.board.entry import Entry
from leaderboards.board.sample import Sample
from support.errors import InputError, RunError
from support.images import ImageRef
from tasks.registry import registry
from tasks.scenes.language import caption
from tasks.scenes.world import make_scene
from tests.harness.zoo import FAMILIES
from trainers.data.rows import Preference
from trainers.vlfeedback.instructions import write_image


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def line(step: int, chosen: float = 0.5, rejected: float = -0.5, accuracy: float = 0.7, loss: float = 0.6) -> LogLine:
    return LogLine(
        step=step,
        loss=loss,
        margin=chosen - rejected,
        accuracy=accuracy,
        chosen_reward=chosen,
        rejected_reward=rejected,
    )


def names(log: list[LogLine], **given: Any) -> list[str]:
    return [alarm.name for alarm in find_alarms(log, total=100, **given)]


def test_a_sound_log_raises_no_alarm() -> None:
    assert names([line(step, chosen=step / 100, rejected=-step / 50) for step in range(5, 101, 5)]) == []


def test_a_chosen_answer_that_becomes_less_likely_while_the_margin_grows() -> None:
    falling = [line(step, chosen=-step / 50, rejected=-step / 10) for step in range(5, 101, 5)]
    assert names(falling) == ["chosen falls"]
    both_ways = [line(step, chosen=(-1) ** step * 0.2, rejected=-1.0) for step in range(1, 101)]
    assert names(both_ways) == []


def test_a_reference_that_moves_with_the_policy() -> None:
    assert names([line(step, chosen=0.0, rejected=0.0, accuracy=0.0) for step in (1, 5, 10)]) == [
        "reference moves along"
    ]
    assert names([line(1, chosen=0.0, rejected=0.0, accuracy=0.0)]) == []  # before the first step they are the same


def test_pairs_told_apart_from_the_start() -> None:
    assert names([line(5, accuracy=0.97), line(10)]) == ["too easy"]
    assert names([line(50, accuracy=0.97), line(60)]) == []


def test_a_loss_that_is_no_number_and_an_accuracy_that_held_out_pairs_lack() -> None:
    assert names([line(5), line(10, loss=float("nan"))]) == ["no number"]
    log = [line(step, accuracy=0.9) for step in range(20, 101, 5)]
    assert names(log, held_out=0.6) == ["overfit"]
    assert names(log, held_out=0.85) == []


def test_the_log_is_read_of_our_runs_and_of_a_trainers_last_checkpoint(tmp_path: Path) -> None:
    rows = [
        {"loss": 0.7, "rewards/margins": 0.1, "step": 5},
        {"eval_loss": 1.0, "step": 5},
        {"train_runtime": 1.0, "step": 10},
    ]
    for step, kept in ((5, rows[:1]), (10, rows)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, "log_history": kept}))
    assert read_log(tmp_path) == [LogLine(step=5, loss=0.7, margin=0.1)]
    (tmp_path / "log.jsonl").write_text('{"loss": 0.5, "step": 1}\n')
    assert read_log(tmp_path) == [LogLine(step=1, loss=0.5)]
    assert read_log(tmp_path / "checkpoint-5") == []


def test_what_is_being_written_is_no_part_of_the_log_yet(tmp_path: Path) -> None:
    for step, text in (
        (5, json.dumps({"global_step": 5, "log_history": [{"step": 5, "loss": 0.7}, 3]})),
        (10, '{"global_st'),
        (15, "[]"),
    ):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(text)
    assert read_log(tmp_path) == [LogLine(step=5, loss=0.7)]
    (tmp_path / "log.jsonl").write_text(json.dumps({"step": 1, "loss": 0.5}) + '\n[1]\n{"step": 2, "lo')
    assert read_log(tmp_path) == [LogLine(step=1, loss=0.5)]


def test_the_table_joins_log_and_answers_by_step_and_hides_what_nobody_logged() -> None:
    text = training_table(
        [line(5), line(10), LogLine(step=15, loss=0.25)], beta=0.5, answers={12: {"scenes_mme": 3.25}}
    )
    head, _, *rows = text.splitlines()
    assert "log p" not in head
    assert "words scenes\\_mme" in head or "words scenes_mme" in head
    assert [row.split("|")[1].strip() for row in rows] == ["5", "10", "12 (checkpoint-12)", "15"]
    assert [figure for figure in map(str.strip, rows[2].split("|")[2:]) if figure] == [
        "3.2"
    ]  # step 10's figures are not its own
    assert "1.000" in rows[0]  # a reward of 0.5 at beta 0.5 is a nat
    assert training_table([], 0.1, {}) == ""


# Scores on a board


def put(board: Board, model: str, task: str, records: dict[str, list[dict[str, Any]]]) -> None:
    """A run of `model` whose samples have these records by metric."""
    spec, run = registry().task(task), f"run-{model}-{task}"
    count = len(next(iter(records.values())))
    entries = [
        Entry(
            run=run,
            model=model,
            task=task,
            version=spec.version,
            metric=metric,
            value=registry().metric(task, metric)(own),
            unit="",
            higher_is_better=spec.metrics[metric].higher_is_better,
            headline=metric == spec.headline,
            samples=count,
            low=None,
            high=None,
            limit=None,
            judge=None,
            seconds=1.0,
            cost=0.0,
            created="2026-01-31T12:00:00+00:00",
            provenance={},
        )
        for metric, own in records.items()
    ]
    samples = [
        Sample(
            run=run,
            task=task,
            id=str(index),
            image=str(index),
            prompt="?",
            answer="!",
            records={metric: own[index] for metric, own in records.items()},
            reply=None,
        )
        for index in range(count)
    ]
    board.add(entries, samples)


def right(count: int, of: int = 100) -> dict[str, list[dict[str, Any]]]:
    """`count` right answers, the first ones."""
    from tasks.scenes.scenes_mme import process_results

    doc = {"category": "existence", "answer": "yes"}
    found = [process_results({**doc, "scene": str(index)}, ["yes" if index < count else "no"]) for index in range(of)]
    return {"accuracy": [records["accuracy"] for records in found]}


MME = [("scenes_mme", "accuracy")]


def test_the_best_is_the_earliest_that_is_not_worse_than_the_highest(tmp_path: Path) -> None:
    board = Board(tmp_path)
    for model, count in (("at-1", 50), ("at-2", 80), ("at-3", 82), ("at-4", 81)):
        put(board, model, "scenes_mme", right(count))
    found = select_checkpoint(Scores(board), ["at-1", "at-2", "at-3", "at-4"], MME)
    assert found.highest == {"scenes_mme.accuracy": "at-3"}
    assert found.model == "at-2"
    assert found.worse["at-1"] == ("scenes_mme.accuracy",)
    assert found.comparisons == 3


def test_a_checkpoint_without_a_score_is_never_the_best(tmp_path: Path) -> None:
    put(Board(tmp_path), "at-2", "scenes_mme", right(50))
    found = select_checkpoint(Scores(Board(tmp_path)), ["at-1", "at-2"], MME)
    assert (found.model, "at-1" in found.worse) == ("at-2", False)
    assert select_checkpoint(Scores(Board(tmp_path)), ["at-1"], MME).model is None


def test_no_checkpoint_is_best_where_each_is_worse_somewhere(tmp_path: Path) -> None:
    board = Board(tmp_path)
    for model, mme, f1 in (("at-1", 90, 40), ("at-2", 40, 90)):
        put(board, model, "scenes_mme", right(mme))
        put(board, model, "scenes_pope", _pope(f1))
    assert select_checkpoint(Scores(board), ["at-1", "at-2"], [*MME, ("scenes_pope", "accuracy")]).model is None


def _pope(count: int) -> dict[str, list[dict[str, Any]]]:
    from tasks.scenes.scenes_mme import process_results

    doc = {"category": "existence", "answer": "yes"}
    found = [
        process_results({**doc, "scene": str(index)}, ["yes" if index >= 100 - count else "no"]) for index in range(100)
    ]
    return {"accuracy": [records["accuracy"] for records in found]}


def test_a_metric_without_a_value_is_named_and_its_checkpoint_not_ranked(tmp_path: Path) -> None:
    board = Board(tmp_path)
    put(board, "at-1", "scenes_mme", right(50))
    (known,) = board.entries()
    board.add([replace(known, run="blank", task="scenes_pope", metric="f1", value=None)], [])
    found = select_checkpoint(Scores(board), ["at-1", "at-2"], [*MME, ("scenes_pope", "f1")])
    assert (found.model, found.highest) == (None, {})
    assert found.lacking == {"at-1": ("scenes_pope.f1",), "at-2": ("scenes_mme.accuracy", "scenes_pope.f1")}
    shown = describe_selection(found, ["at-1", "at-2"])
    assert "none has a value of every headline metric" in shown
    assert "significantly worse than another" not in shown
    assert "no value of scenes" in shown


def test_a_checkpoint_alone_is_not_called_the_best_without_a_value() -> None:
    found = Selection(model=None, highest={}, worse={}, comparisons=0, lacking={"at-1": ("scenes_pope.f1",)})
    shown = describe_selection(found, ["at-1"])
    assert "**No checkpoint is ranked**" in shown
    assert "no value of scenes" in next(row for row in shown.splitlines() if row.startswith("| at-1"))
    assert "one alone" in describe_selection(Selection(model="at-1", highest={}, worse={}, comparisons=0), ["at-1"])


def test_of_checkpoints_that_are_gone_none_is_ranked_and_one_is_told() -> None:
    found = Selection(model="at-2", highest={}, worse={}, comparisons=0)
    shown = describe_selection(found, ["at-1", "at-2"], removed=["at-1"])
    assert "that the trainer has removed are not ranked" in shown
    assert "removed, not ranked" in next(row for row in shown.splitlines() if row.startswith("| at-1"))
    assert "removed" not in describe_selection(found, ["at-1", "at-2"])


def test_answers_that_grow_long_raise_an_alarm(tmp_path: Path) -> None:
    board = Board(tmp_path)
    for model, more in (("base", 0), ("same", 1), ("long", 20)):
        put(
            board,
            model,
            "scenes_chair",
            {"length": [{"image": str(index), "words": 30 + index % 7 + more} for index in range(60)]},
        )
    tasks = registry().expand(["scenes_chair"])
    assert names([], lengths=lengths_of(Scores(board), "base", "long", tasks)) == ["length drift"]
    assert names([], lengths=lengths_of(Scores(board), "base", "same", tasks)) == []  # a word of 33 is no drift


# The model itself


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> list[Preference]:
    """A caption of the picture, and one of another."""
    images = tmp_path_factory.mktemp("images")
    scenes = [make_scene(f"test-diagnostics/{index}") for index in range(25)]
    return [
        Preference(
            id=scene.id,
            prompt="describe the image in detail.",
            images=(ImageRef(scene.id, images / write_image(scene, images)),),
            chosen=caption(scene),
            rejected=caption(other),
            row=index,
        )
        for index, (scene, other) in enumerate(pairwise(scenes))
    ]


@pytest.fixture(scope="module")
def loaded() -> Callable[[str], Any]:
    from transformers import AutoModelForImageTextToText

    register()
    return lambda name: AutoModelForImageTextToText.from_pretrained(find(name).pretrained, dtype=torch.float32)


@pytest.fixture(scope="module")
def processor() -> Any:
    from transformers import AutoProcessor

    register()
    return AutoProcessor.from_pretrained(find("scenes-base").pretrained)


def adapted(model: Any, targets: str = r".*language_model.*q_proj", scale: float = 0.5) -> Any:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    tuned = get_peft_model(model, LoraConfig(r=2, target_modules=targets, task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn_like(parameter) * scale)
    return tuned.eval()


def test_a_model_that_sees_tells_pairs_apart_by_their_image(
    loaded: Any, processor: Any, pairs: list[Preference]
) -> None:
    blank = adapted(loaded("scenes-base"), scale=3.0)  # a reference that is at a loss
    seen = measure_image_use(loaded("scenes-base"), processor, pairs, reference=blank)
    assert seen.accuracy["image"][0] > 70
    assert {seen.verdicts[view].outcome for view in ("blank", "other")} == {"worse"}
    assert seen.sees
    assert not seen.blind
    assert find_check_alarms(ImageUseChecks(use=seen, held_out=True, merged=None)) == []


def test_a_model_that_learned_words_alone_is_called_blind(loaded: Any, processor: Any, pairs: list[Preference]) -> None:
    tuned, base = loaded("scenes-base"), loaded("scenes-base")
    with torch.no_grad():
        tuned.lm_head.weight *= 0.5  # surer of nothing: what is unlikely and long gains most, whatever the picture
    told = [
        Preference(
            id=pair.id, prompt=pair.prompt, images=pair.images, chosen="a red ring. " * 6, rejected="no", row=pair.row
        )
        for pair in pairs
    ]
    seen = measure_image_use(tuned, processor, told, reference=base)
    assert seen.blind
    checks = ImageUseChecks(use=seen, held_out=False, merged=None)
    assert [alarm.name for alarm in find_check_alarms(checks)] == ["image-blind"]
    assert "trained on" in render(checks)
    assert ImageUseChecks.from_json(json.loads(json.dumps(checks.to_json()))) == checks


def test_few_pairs_are_no_proof_of_blindness(loaded: Any, processor: Any, pairs: list[Preference]) -> None:
    seen = measure_image_use(
        loaded("scenes-base"), processor, pairs[:5], reference=adapted(loaded("scenes-base"), scale=3.0)
    )
    assert not seen.sees
    assert not seen.blind
    assert "so few pairs" in render(ImageUseChecks(use=seen, held_out=True, merged=None))


def test_an_untrained_policy_tells_nothing_apart_and_has_not_moved(
    loaded: Any, processor: Any, pairs: list[Preference]
) -> None:
    seen = measure_image_use(adapted(loaded("scenes-base"), scale=0.0), processor, pairs[:4])
    assert {value for value, *_ in seen.accuracy.values()} == {50.0}
    assert seen.moved == 0.0


def test_batches_change_nothing_and_where_one_picture_is_all_there_is_it_says_so(
    loaded: Any, processor: Any, pairs: list[Preference]
) -> None:
    tuned = adapted(loaded("scenes-base"))
    alone, together = (measure_image_use(tuned, processor, pairs[:6], batch_size=size) for size in (1, 6))
    assert alone.accuracy == together.accuracy
    assert alone.moved == pytest.approx(together.moved, rel=1e-4)
    assert alone.moved > 0
    assert "same image" in measure_image_use(tuned, processor, pairs[:1]).refused["other"]


@pytest.mark.parametrize("family", ("llava", "qwen2_5_vl", "idefics3", "gemma3", "internvl"))
def test_log_ratios_are_those_of_one_plain_sequence_each(family: str, pairs: list[Preference], tmp_path: Path) -> None:
    """Without batches, without padding, and with the logits of every position."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from harness.runs.image_use_checks import _log_ratios

    register()
    FAMILIES[family](tmp_path)
    processor = AutoProcessor.from_pretrained(tmp_path)
    tuned = adapted(
        AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.float32),
        targets=r".*(language_model|text_model).*(q|v)_proj",
        scale=0.1,
    )
    pictures = [[picture.open().convert("RGB").resize((56, 42)) for picture in pair.images] for pair in pairs[:3]]
    found = _log_ratios(tuned, processor, pairs[:3], pictures, None, measured=False)
    for pair, shown, ratio in zip(pairs[:3], pictures, found, strict=True):
        for answer, value in ((pair.chosen, ratio.chosen), (pair.rejected, ratio.rejected)):
            assert value == pytest.approx(plain_ratio(tuned, processor, pair.prompt, answer, shown), abs=2e-3)


def plain_ratio(model: Any, processor: Any, prompt: str, answer: str, pictures: list[Any]) -> float:
    asked = [{"role": "user", "content": [*({"type": "image"} for _ in pictures), {"type": "text", "text": prompt}]}]
    told = [*asked, {"role": "assistant", "content": [{"type": "text", "text": answer}]}]
    before, both = processor.apply_chat_template(asked, add_generation_prompt=True), processor.apply_chat_template(told)
    assert both.startswith(before)
    whole = dict(processor(text=[before], images=[pictures], return_tensors="pt", add_special_tokens=False))
    start = whole["input_ids"].shape[1]
    # In training an answer is cut into tokens by itself.
    more = processor.tokenizer(both.removeprefix(before), return_tensors="pt", add_special_tokens=False)["input_ids"]
    whole["input_ids"] = torch.cat([whole["input_ids"], more], dim=1)
    whole["attention_mask"] = torch.ones_like(whole["input_ids"])
    for types in {"token_type_ids", "mm_token_type_ids"} & whole.keys():
        whole[types] = torch.cat([whole[types], torch.zeros_like(more)], dim=1)

    def log_probability() -> float:
        logits = model(**whole).logits[0, start - 1 : -1].float().log_softmax(-1)
        return float(logits.gather(1, whole["input_ids"][0, start:, None]).sum())

    with torch.inference_mode():
        policy = log_probability()
        with model.disable_adapter():
            return policy - log_probability()


def test_merging_keeps_what_the_adapter_does_and_nothing_trained_is_said(
    loaded: Any, processor: Any, pairs: list[Preference]
) -> None:
    merged = check_merging(adapted(loaded("scenes-base")), processor, pairs[0])
    assert merged.kept
    assert merged.error < 1e-3 < merged.effect
    with pytest.raises(RunError, match="changes no logit"):
        check_merging(adapted(loaded("scenes-base"), scale=0.0), processor, pairs[0])


def test_rounding_that_eats_the_adapter_is_an_alarm(loaded: Any, processor: Any, pairs: list[Preference]) -> None:
    half = adapted(loaded("scenes-base"), scale=2e-4).to(torch.bfloat16)
    merged = check_merging(half, processor, pairs[0])
    seen = measure_image_use(half, processor, pairs[:2])
    assert not merged.kept
    assert "merging" in [
        alarm.name for alarm in find_check_alarms(ImageUseChecks(use=seen, held_out=True, merged=merged))
    ]


def test_pairs_without_images_or_without_a_reference_are_a_mistake(
    loaded: Any, processor: Any, pairs: list[Preference]
) -> None:
    blind = [Preference(id="1", prompt="?", images=(), chosen="a", rejected="b", row=0)]
    with pytest.raises(InputError, match="none of 1 has an image"):
        measure_image_use(adapted(loaded("scenes-base")), processor, blind)
    with pytest.raises(InputError, match="no adapters"):
        measure_image_use(loaded("scenes-base"), processor, pairs)


def test_a_sample_has_one_pair_a_row_and_is_the_same_each_time(pairs: list[Preference]) -> None:
    twice = [replace(pair, id=f"{pair.id}/{copy}") for pair in pairs for copy in range(2)] + [
        replace(pairs[0], images=(), row=99)
    ]
    drawn = draw_pairs(twice, 10, seed=1)
    assert len({pair.row for pair in drawn}) == 10
    assert drawn == draw_pairs(twice, 10, seed=1) != draw_pairs(twice, 10, seed=2)
    assert len(draw_pairs(twice, 100, seed=1)) == len(pairs)
    assert (
        draw_pairs([replace(pair, rejected="") for pair in twice], 10, seed=1) == []
    )  # best answers, for SFT: there is nothing to tell apart
