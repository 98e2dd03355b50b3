"""Does a checkpoint use its images, how far is it from its reference, and can its adapter be merged?

    use = measure_image_use(model, processor, draw_pairs(held_out, 64, seed=0))
    use.verdicts["blank"].outcome        # "worse": without the image pairs are told apart less well, so it is used

DPO that learned nothing visual is a known failure: training without images then does as well as with them (mDPO,
2406.11839). Here the implicit reward log pi(y|m,q) - log pi_ref(y|m,q) of chosen and rejected answers is computed with
the right image, with a grey one, with another pair's, and with none; policy and reference are shown the same.
"""

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from harness.models.adapter_host import AdapterHost
from harness.models.spec import ModelSpec
from leaderboards.statistics.verdict import PairedTest, adjusted, compare, interval
from support.errors import InputError, RunError
from support.markdown import number, p_value, span, table
from support.progress import report
from tasks.metric import mean_of
from trainers.data.rows import Preference

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

View = Literal["image", "blank", "other", "none"]
VIEWS: Final[tuple[View, ...]] = ("image", "blank", "other", "none")
"""The pair's own image, a grey one of its size, another pair's, none at all."""
STAGE: Final = "look at the last checkpoint"
"""Under which progress is reported, and time is kept."""
GREY: Final = (128, 128, 128)
RIGHT: Final = mean_of("right", scale=100.0)
"""Pair accuracy in %: chosen above rejected, half where both are the same."""
LOSS: Final = 10.0
"""A model that uses images loses at least so many points of pair accuracy without them."""
ROUNDING: Final = 0.1
"""Share of an adapter's effect on logits that rounding may change when it is merged."""


@dataclass(frozen=True, kw_only=True)
class ImageUse:
    """How well pairs are told apart with images and without."""

    pairs: int
    accuracy: Mapping[View, tuple[float, float | None, float | None]]
    """In %, with its 95% interval."""
    verdicts: Mapping[View, PairedTest]
    """Of each other view against the right image, on the same pairs, Holm-adjusted: "worse" if the image matters."""
    refused: Mapping[View, str]
    """Views that could not be measured, and why."""
    moved: float
    """KL(policy || reference) in nats a token, exactly, along the chosen answers."""

    @property
    def sees(self) -> bool:
        """True if pairs are told apart significantly less well with any view but the right image."""
        return any(verdict.outcome == "worse" for verdict in self.verdicts.values())

    @property
    def blind(self) -> bool:
        """True if a grey image does as well as the right one: a loss of `LOSS` points or more is outside the
        interval."""
        blank = self.verdicts.get("blank")
        return not self.sees and blank is not None and blank.low is not None and blank.low > -LOSS


def draw_pairs(preferences: Sequence[Preference], count: int, seed: int) -> list[Preference]:
    """Random pairs with images and two answers, at most `count`, each of another row, in the data's order."""
    rows: dict[int, list[Preference]] = {}
    for pair in preferences:
        if pair.images and pair.rejected:  # data for SFT have chosen answers alone
            rows.setdefault(pair.row, []).append(pair)
    chance = random.Random(f"checks/{seed}")
    drawn = sorted(chance.sample(sorted(rows), min(count, len(rows))))
    return [chance.choice(rows[row]) for row in drawn]


def measure_image_use(
    model: Any,
    processor: Any,
    preferences: Sequence[Preference],
    *,
    reference: Any = None,
    views: Sequence[View] = VIEWS,
    batch_size: int = 4,
) -> ImageUse:
    """Pair accuracy of `model` by view of the image; `batch_size` pairs are read at once.

    `reference` is by default the model without its adapters. Needs memory for the logits of two batches of answers.
    InputError if there is no reference, or no pair with an image.
    """
    if reference is None and not hasattr(model, "disable_adapter"):
        raise InputError(
            "pairs can't be looked at: the model has no adapters to switch off, and no reference was given"
        )
    pairs = [pair for pair in preferences if pair.images]
    if not pairs:
        raise InputError(f"pairs can't be looked at: none of {len(preferences)} has an image")
    others, refused = _find_other_images(pairs), dict[View, str]()
    if not others:
        refused["other"] = "all pairs show the same image"
    asked: list[View] = ["image", *(view for view in views if view != "image" and view not in refused)]
    records: dict[View, list[dict[str, Any]]] = {}
    distances: list[tuple[float, int]] = []
    for place, view in enumerate(asked):
        try:
            found: list[_LogRatios] = []
            for start in range(0, len(pairs), batch_size):
                chunk = range(start, min(start + batch_size, len(pairs)))
                shown = [_images_of(pairs, index, view, others) for index in chunk]
                found += _log_ratios(
                    model, processor, [pairs[index] for index in chunk], shown, reference, measured=view == "image"
                )
                report(STAGE, place * len(pairs) + chunk.stop, len(asked) * len(pairs))
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            if view != "none":
                raise
            refused[view] = f"this model takes no prompt without its image ({type(error).__name__})"
            continue
        if view == "image":
            distances = [ratio.distance for ratio in found]
        records[view] = [{"image": str(index), "right": ratio.right} for index, ratio in enumerate(found)]
    return ImageUse(
        pairs=len(pairs),
        accuracy={view: (RIGHT(own), *interval(own, RIGHT)) for view, own in records.items()},
        verdicts=adjusted(
            {
                view: compare(records["image"], own, RIGHT, higher_is_better=True)
                for view, own in records.items()
                if view != "image"
            }
        ),
        refused=refused,
        moved=sum(total for total, _ in distances) / max(1, sum(tokens for _, tokens in distances)),
    )


def _find_other_images(pairs: Sequence[Preference]) -> dict[int, int]:
    """For each pair another one that shows something else: the next such one."""
    marks = [hashlib.sha256(b"".join(picture.read() for picture in pair.images)).digest() for pair in pairs]
    if len(set(marks)) < 2:
        return {}
    found = {}
    for index, mark in enumerate(marks):
        ahead = (at % len(pairs) for at in range(index + 1, index + len(pairs)))
        found[index] = next(at for at in ahead if marks[at] != mark)
    return found


def _images_of(pairs: Sequence[Preference], index: int, view: View, others: Mapping[int, int]) -> "list[Image]":
    from PIL import Image

    own = pairs[index].images
    if view == "none":
        return []
    if view == "other":
        theirs = pairs[others[index]].images
        return [theirs[place % len(theirs)].open().convert("RGB") for place in range(len(own))]
    opened = [picture.open().convert("RGB") for picture in own]
    return [Image.new("RGB", picture.size, GREY) for picture in opened] if view == "blank" else opened


@dataclass(frozen=True)
class _LogRatios:
    chosen: float
    """log pi / pi_ref of the answer, nats."""
    rejected: float
    distance: tuple[float, int]
    """KL summed over the chosen answer's tokens, and their number."""

    @property
    def right(self) -> float:
        return 0.5 if self.chosen == self.rejected else float(self.chosen > self.rejected)


def _log_ratios(
    model: Any,
    processor: Any,
    pairs: Sequence[Preference],
    shown: "Sequence[Sequence[Image]]",
    reference: Any,
    *,
    measured: bool,
) -> list[_LogRatios]:
    import torch

    found: list[list[tuple[float, float, int]]] = []
    was = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for inputs, told in _encode(model, processor, pairs, shown):
                policy = _answer_logits(model, inputs, told)
                with model.disable_adapter() if reference is None else nullcontext():
                    base = _answer_logits(model if reference is None else reference, inputs, told)
                first = not found  # the chosen side
                found.append(
                    [_compare(*each, measured=measured and first) for each in zip(policy, base, told, strict=True)]
                )
    finally:
        model.train(was)
    return [_LogRatios(chosen[0], rejected[0], (chosen[1], chosen[2])) for chosen, rejected in zip(*found, strict=True)]


def _compare(policy: "Tensor", base: "Tensor", told: "Tensor", *, measured: bool) -> tuple[float, float, int]:
    """log ratio of an answer, KL summed over its tokens (0 if not `measured`), tokens; logits [tokens, vocabulary]."""
    ours, theirs = policy.float().log_softmax(-1), base.float().log_softmax(-1)
    ratio = (ours - theirs).gather(1, told[:, None]).double().sum()
    distance = (ours.exp() * (ours - theirs)).double().sum() if measured else 0.0
    return float(ratio), float(distance), len(told)


def _encode(
    model: Any, processor: Any, pairs: Sequence[Preference], shown: "Sequence[Sequence[Image]]"
) -> "Iterator[tuple[dict[str, Any], list[Tensor]]]":
    """For chosen, then rejected answers: the model's tensors, right-padded, and each answer's tokens, at its row's end.

    Prompts and answers are rendered and cut into tokens as in training, and images processed once for both sides.
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence

    from trainers.data.chat import Chat, stops_of
    from trainers.data.image_places import user_message

    chat = Chat(processor, stops_of(model, processor))
    turns = [
        chat.read([user_message(pair)], pictures, [getattr(pair, side) for side in SIDES])
        for pair, pictures in zip(pairs, shown, strict=True)
    ]
    # The template has written the start token already.
    settings = {"return_tensors": "pt", "padding": True, "padding_side": "right", "add_special_tokens": False}
    images = {"images": [list(pictures) for pictures in shown]} if any(shown) else {}
    prompts = processor(text=[turn.prompt for turn in turns], **images, **settings)
    lengths = prompts["attention_mask"].sum(1).tolist()
    for side in range(len(SIDES)):
        told = [torch.tensor(turn.answers[side]) for turn in turns]
        inputs = dict(prompts)
        for name in TEXTS & inputs.keys():  # an answer has no image: its types are 0, and so is what pads
            own = told if name == "input_ids" else [torch.full_like(ids, name == "attention_mask") for ids in told]
            rows = [
                torch.cat([row[:length], more]) for row, length, more in zip(inputs[name], lengths, own, strict=True)
            ]
            inputs[name] = pad_sequence(rows, batch_first=True)
        yield _move_to_model(model, inputs), [ids.to(model.device) for ids in told]


SIDES: Final = ("chosen", "rejected")
TEXTS: Final = {"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"}
"""What a processor makes of the text, a number a token; the rest is images."""


def _move_to_model(model: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs where the model is, pixels in its precision."""
    import torch

    dtype = next(model.parameters()).dtype
    return {
        name: value.to(model.device, dtype if value.is_floating_point() else value.dtype)
        if isinstance(value, torch.Tensor)
        else value
        for name, value in inputs.items()
    }


def _answer_logits(model: Any, inputs: Mapping[str, Any], told: "Sequence[Tensor]") -> "list[Tensor]":
    """Of each answer the logits that predict its tokens [tokens, vocabulary]."""
    length = inputs["input_ids"].shape[1]
    ends = inputs["attention_mask"].sum(1).tolist()
    begins = [end - len(answer) for end, answer in zip(ends, told, strict=True)]
    kept = {"logits_to_keep": length - min(begins) + 1} if _can_skip_logits(model) else {}
    logits = model(**inputs, use_cache=False, **kept).logits
    offset = length - logits.shape[1] + 1
    return [
        logits[row, begin - offset : end - offset] for row, (begin, end) in enumerate(zip(begins, ends, strict=True))
    ]


def _can_skip_logits(model: Any) -> bool:
    """True if the model need not compute the logits of the prompt."""
    import inspect

    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    return "logits_to_keep" in inspect.signature(type(plain).forward).parameters


@dataclass(frozen=True, kw_only=True)
class Merged:
    """What an adapter does to logits, and what merging it into the weights changes of that."""

    effect: float
    """Largest difference between logits with the adapter and without."""
    error: float
    """Largest difference between logits of adapter and of merged weights."""
    dtype: str

    @property
    def kept(self) -> bool:
        """True if the merged model is the same, except for rounding."""
        return self.error <= ROUNDING * self.effect


def check_merging(model: Any, processor: Any, pair: Preference) -> Merged:
    """Merge the adapters of `model` in memory, compute logits again, and take the adapters out. Rounding stays in the
    weights, so drop the model then.

    RunError if the adapters change nothing, or can't be merged.
    """
    import torch

    inputs, told = next(_encode(model, processor, [pair], [[picture.open().convert("RGB") for picture in pair.images]]))
    model.eval()
    with torch.inference_mode():
        adapted = torch.cat(_answer_logits(model, inputs, told)).float()
        with model.disable_adapter():
            plain = torch.cat(_answer_logits(model, inputs, told)).float()
        effect = float((adapted - plain).abs().max())
        if effect == 0:
            raise RunError("the adapter changes no logit: it was not trained, or not loaded")
        try:
            model.merge_adapter()
        except (ValueError, NotImplementedError, AttributeError, RuntimeError) as error:
            raise RunError(f"the adapter can't be merged: {' '.join(str(error).split())[:200]}") from error
        try:
            merged = torch.cat(_answer_logits(model, inputs, told)).float()
        finally:
            model.unmerge_adapter()
    changed = float((adapted - merged).abs().max())
    return Merged(effect=effect, error=changed, dtype=str(next(model.parameters()).dtype).removeprefix("torch."))


@dataclass(frozen=True, kw_only=True)
class ImageUseChecks:
    """All that was measured of one checkpoint."""

    use: ImageUse
    held_out: bool
    """True if its pairs were kept out of training."""
    merged: Merged | None
    """None: it is no adapter, or one that can't be merged."""
    unmerged: str = ""
    """Why there is no `merged`."""

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        values = asdict(self)
        return {"seen": values.pop("use"), **values}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "ImageUseChecks":
        """What `to_json` gave."""
        seen = dict(data["seen"])
        seen["accuracy"] = {view: tuple(values) for view, values in seen["accuracy"].items()}
        # The share of pairs that are told apart has no guards; JSON has a list in place of the empty tuple.
        seen["verdicts"] = {view: PairedTest(**verdict | {"guards": ()}) for view, verdict in seen["verdicts"].items()}
        return ImageUseChecks(
            use=ImageUse(**seen),
            held_out=data["held_out"],
            merged=None if data["merged"] is None else Merged(**data["merged"]),
            unmerged=data["unmerged"],
        )


def check_image_use(
    spec: ModelSpec, base: ModelSpec, pairs: Sequence[Preference], host: AdapterHost, *, held_out: bool
) -> ImageUseChecks:
    """Measure how a checkpoint uses images, and whether it can be merged if it is an adapter; if it is none, this needs
    the memory of two models."""
    lm = host.load(spec)
    if spec.adapter is None:
        reference = AdapterHost()
        try:
            use = measure_image_use(lm.hf, lm.processor, pairs, reference=reference.load(base).hf)
        finally:
            reference.drop()
        return ImageUseChecks(use=use, held_out=held_out, merged=None, unmerged="all weights were trained")
    use = measure_image_use(lm.model, lm.processor, pairs)
    try:
        return ImageUseChecks(use=use, held_out=held_out, merged=check_merging(lm.model, lm.processor, pairs[0]))
    except RunError as error:
        return ImageUseChecks(use=use, held_out=held_out, merged=None, unmerged=str(error))
    finally:
        host.drop()  # unmerged weights are rounded ones


def render(checks: ImageUseChecks) -> str:
    """Checks as markdown."""
    use = checks.use
    names = {"image": "its image", "blank": "a grey image", "other": "another pair's image", "none": "no image"}
    rows = []
    for view, (value, low, high) in use.accuracy.items():
        row = [names[view], number(value, "%") + span(low, high, "%"), "", ""]
        if verdict := use.verdicts.get(view):
            difference = number(verdict.difference, "%", signed=True) + span(verdict.low, verdict.high, "%")
            row[2:] = [difference, p_value(verdict.p)]
        rows.append(row)
    which = "pairs that were held out" if checks.held_out else "pairs that were trained on"
    if use.sees:
        text = "The image is used: without it pairs are told apart less well."
    elif use.blind:
        text = "**A grey image does as well as the right one.**"
    else:
        text = "Whether the image is used can't be told from so few pairs."
    text += f" {use.pairs} {which}, the policy's implicit reward of chosen against rejected answers; differences are"
    text += f" paired by pair.\n\n{table(['shown with', 'told apart % ↑', 'difference', 'p'], rows)}"
    text += "".join(f"\n\nNot measured with {names[view]}: {why}." for view, why in use.refused.items())
    text += f"\n\nAlong the chosen answers the policy is {use.moved:.2g} nats a token from its reference (KL)."
    if checks.merged is None:
        return f"{text} Not merged: {checks.unmerged}."
    merged = checks.merged
    text += f" Reloaded, the adapter changes logits by up to {merged.effect:.3g};"
    return f"{text} merged into {merged.dtype} weights they differ from that by up to {merged.error:.2g}."
