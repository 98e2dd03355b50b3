"""What a trained adapter does, asked of the model itself: does it see, how far has it moved, does merging keep it.

    seen = look_at_pairs(model, processor, sample(held_out, 64, seed=0))
    seen.verdicts["blank"].outcome        # "worse": without the image pairs are told apart less well, so images are looked at

DPO that learned nothing visual is a known failure: training without images then does as well as with them (mDPO,
2406.11839). Here the implicit reward log pi(y|m,q) - log pi_ref(y|m,q) of chosen and rejected answers is compared with
the right image, with a grey one, with another pair's, and with none; policy and reference see the same.
"""

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from harness.models.adapter_host import AdapterHost
from harness.models.spec import ModelSpec
from leaderboards.statistics.verdict import Pair, PairedTest, adjusted, compare, interval
from support.errors import InputError, RunError
from support.markdown import number, p_value, span, table
from tasks.metric import mean_of
from trainers.data.rows import Preference

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

View = Literal["image", "blank", "other", "none"]
VIEWS: Final[tuple[View, ...]] = ("image", "blank", "other", "none")
"""The pair's own image, a grey one of its size, another pair's, none at all."""
GREY: Final = (128, 128, 128)
RIGHT: Final = mean_of("right", scale=100.0)
"""Pair accuracy in %: chosen above rejected, half where both are the same."""
LOSS: Final = 10.0
"""Points of pair accuracy that a model which looks at images loses at least without them; fewer pairs can't tell
less."""
KEPT: Final = 0.1
"""Share of what an adapter does to logits that merging may change by rounding."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """How well pairs are told apart with images and without."""

    pairs: int
    accuracy: Mapping[View, tuple[float, float | None, float | None]]
    """In %, with its 95% interval."""
    verdicts: Mapping[View, PairedTest]
    """On each other view against the right image, on the same pairs, Holm-adjusted: "worse" where the image matters."""
    refused: Mapping[View, str]
    """Views that could not be had, and why."""
    moved: float
    """KL(policy || reference) in nats a token, exactly, along the chosen answers."""

    @property
    def sees(self) -> bool:
        """Whether pairs are told apart significantly less well by any view but the right image."""
        return any(verdict.outcome == "worse" for verdict in self.verdicts.values())

    @property
    def blind(self) -> bool:
        """Whether a grey image does as well as the right one: a loss of `LOSS` points or more is outside of the
        interval."""
        blank = self.verdicts.get("blank")
        return not self.sees and blank is not None and blank.low is not None and blank.low > -LOSS


def sample(preferences: Sequence[Preference], count: int, seed: int) -> list[Preference]:
    """So many pairs with images and two answers, drawn by chance, each of another row, in the data's order."""
    rows: dict[int, list[Preference]] = {}
    for pair in preferences:
        if pair.images and pair.rejected:  # data for SFT have chosen answers alone
            rows.setdefault(pair.row, []).append(pair)
    chance = random.Random(f"checks/{seed}")
    drawn = sorted(chance.sample(sorted(rows), min(count, len(rows))))
    return [chance.choice(rows[row]) for row in drawn]


def look_at_pairs(
    model: Any,
    processor: Any,
    preferences: Sequence[Preference],
    *,
    reference: Any = None,
    views: Sequence[View] = VIEWS,
    batch_size: int = 4,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Seen:
    """Pair accuracy of `model` by view of the image; `batch_size` pairs are read at once, `progress` hears (pairs and
    views done, in all).

    `reference` is by default the model without its adapters. Needs memory for the logits of two batches of answers, of
    no more positions than these have. InputError where there is no reference, or no pair with an image.
    """
    if reference is None and not hasattr(model, "disable_adapter"):
        raise InputError(
            "pairs can't be looked at: the model has no adapters to switch off, and no reference was given"
        )
    pairs = [pair for pair in preferences if pair.images]
    if not pairs:
        raise InputError(f"pairs can't be looked at: none of {len(preferences)} has an image")
    others, refused = _others(pairs), dict[View, str]()
    if not others:
        refused["other"] = "all pairs show the same image"
    asked: list[View] = ["image", *(view for view in views if view != "image" and view not in refused)]
    records: dict[View, list[dict[str, Any]]] = {}
    distances: list[tuple[float, int]] = []
    for place, view in enumerate(asked):
        try:
            found: list[_Ratios] = []
            for start in range(0, len(pairs), batch_size):
                chunk = range(start, min(start + batch_size, len(pairs)))
                shown = [_shown(pairs, index, view, others) for index in chunk]
                found += _ratios(
                    model, processor, [pairs[index] for index in chunk], shown, reference, measured=view == "image"
                )
                progress(place * len(pairs) + chunk.stop, len(asked) * len(pairs))
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            if view != "none":
                raise
            refused[view] = f"this model takes no prompt without its image ({type(error).__name__})"
            continue
        if view == "image":
            distances = [ratio.distance for ratio in found]
        records[view] = [{"image": str(index), "right": ratio.right} for index, ratio in enumerate(found)]
    return Seen(
        pairs=len(pairs),
        accuracy={view: (RIGHT(own), *interval(own, RIGHT)) for view, own in records.items()},
        verdicts=adjusted({view: _against(records["image"], own) for view, own in records.items() if view != "image"}),
        refused=refused,
        moved=sum(total for total, _ in distances) / max(1, sum(tokens for _, tokens in distances)),
    )


def _against(right: list[dict[str, Any]], other: list[dict[str, Any]]) -> PairedTest:
    pair = Pair(right, other, RIGHT, True)
    return compare(pair.base, pair.other, pair.metric, higher_is_better=pair.higher_is_better)


def _others(pairs: Sequence[Preference]) -> dict[int, int]:
    """For each pair another one that shows something else: the next such one."""
    marks = [hashlib.sha256(b"".join(picture.read() for picture in pair.images)).digest() for pair in pairs]
    if len(set(marks)) < 2:
        return {}
    found = {}
    for index, mark in enumerate(marks):
        ahead = (at % len(pairs) for at in range(index + 1, index + len(pairs)))
        found[index] = next(at for at in ahead if marks[at] != mark)
    return found


def _shown(pairs: Sequence[Preference], index: int, view: View, others: Mapping[int, int]) -> "list[Image]":
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
class _Ratios:
    chosen: float
    """log pi / pi_ref of the answer, nats."""
    rejected: float
    distance: tuple[float, int]
    """KL summed over the chosen answer's tokens, and their number."""

    @property
    def right(self) -> float:
        return 0.5 if self.chosen == self.rejected else float(self.chosen > self.rejected)


def _ratios(
    model: Any,
    processor: Any,
    pairs: Sequence[Preference],
    shown: "Sequence[Sequence[Image]]",
    reference: Any,
    *,
    measured: bool,
) -> list[_Ratios]:
    import torch

    found: list[list[tuple[float, float, int]]] = []
    was = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for inputs, told in _inputs(model, processor, pairs, shown):
                policy = _answer_logits(model, inputs, told)
                with model.disable_adapter() if reference is None else nullcontext():
                    base = _answer_logits(model if reference is None else reference, inputs, told)
                first = not found  # the chosen side
                found.append(
                    [_compare(*each, measured=measured and first) for each in zip(policy, base, told, strict=True)]
                )
    finally:
        model.train(was)
    return [_Ratios(chosen[0], rejected[0], (chosen[1], chosen[2])) for chosen, rejected in zip(*found, strict=True)]


def _compare(policy: "Tensor", base: "Tensor", told: "Tensor", *, measured: bool) -> tuple[float, float, int]:
    """log ratio of an answer, KL summed over its tokens (0 if not `measured`), tokens; logits [tokens, vocabulary]."""
    ours, theirs = policy.float().log_softmax(-1), base.float().log_softmax(-1)
    ratio = (ours - theirs).gather(1, told[:, None]).double().sum()
    distance = (ours.exp() * (ours - theirs)).double().sum() if measured else 0.0
    return float(ratio), float(distance), len(told)


def _inputs(
    model: Any, processor: Any, pairs: Sequence[Preference], shown: "Sequence[Sequence[Image]]"
) -> "Iterator[tuple[dict[str, Any], list[Tensor]]]":
    """For chosen, then rejected answers: the model's tensors, right-padded, and each answer's tokens, at its row's end.

    Prompts and answers are rendered and cut into tokens as in training, and images processed once for both sides.
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence
    from trl.data_utils import apply_chat_template, prepare_multimodal_messages

    texts = []
    for pair, pictures in zip(pairs, shown, strict=True):
        messages = {
            "prompt": prepare_multimodal_messages([{"role": "user", "content": pair.prompt}], images=list(pictures))
        }
        for side in SIDES:
            messages[side] = prepare_multimodal_messages([{"role": "assistant", "content": getattr(pair, side)}])
        texts.append(apply_chat_template(messages, processor))
    # The template has written the start token already.
    settings = {"return_tensors": "pt", "padding": True, "padding_side": "right", "add_special_tokens": False}
    images = {"images": [list(pictures) for pictures in shown]} if any(shown) else {}
    prompts = processor(text=[text["prompt"] for text in texts], **images, **settings)
    lengths = prompts["attention_mask"].sum(1).tolist()
    for side in SIDES:
        answers = processor(text=[text[side] for text in texts], **settings)
        told = [ids[mask.bool()] for ids, mask in zip(answers["input_ids"], answers["attention_mask"], strict=True)]
        inputs = dict(prompts)
        for name in TEXTS & inputs.keys():  # an answer has no image: its types are 0, and so is what pads
            own = told if name == "input_ids" else [torch.full_like(ids, name == "attention_mask") for ids in told]
            rows = [
                torch.cat([row[:length], more]) for row, length, more in zip(inputs[name], lengths, own, strict=True)
            ]
            inputs[name] = pad_sequence(rows, batch_first=True)
        yield _placed(model, inputs), [ids.to(model.device) for ids in told]


SIDES: Final = ("chosen", "rejected")
TEXTS: Final = {"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"}
"""What a processor makes of the text, a number a token; the rest is images."""


def _placed(model: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
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
    """Of each answer the logits that predict its tokens [tokens, vocabulary]; of prompts none are computed where the
    model allows it."""
    length = inputs["input_ids"].shape[1]
    ends = inputs["attention_mask"].sum(1).tolist()
    begins = [end - len(answer) for end, answer in zip(ends, told, strict=True)]
    kept = {"logits_to_keep": length - min(begins) + 1} if _takes_few(_plain(model)) else {}
    logits = model(**inputs, use_cache=False, **kept).logits
    offset = length - logits.shape[1] + 1
    return [
        logits[row, begin - offset : end - offset] for row, (begin, end) in enumerate(zip(begins, ends, strict=True))
    ]


def _plain(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _takes_few(model: Any) -> bool:
    import inspect

    return "logits_to_keep" in inspect.signature(type(model).forward).parameters


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
        """Whether the merged model is the same one, but for rounding."""
        return self.error <= KEPT * self.effect


def check_merging(model: Any, processor: Any, pair: Preference) -> Merged:
    """Merge the adapters of `model` in memory, ask again, and take them out; rounding stays in the weights, so let go
    of the model then.

    RunError where the adapters change nothing, or can't be merged.
    """
    import torch

    inputs, told = next(_inputs(model, processor, [pair], [[picture.open().convert("RGB") for picture in pair.images]]))
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
class Checks:
    """All that was asked of one checkpoint."""

    seen: Seen
    held_out: bool
    """Whether its pairs were kept out of training."""
    merged: Merged | None
    """None: it is no adapter, or one that can't be merged."""
    unmerged: str = ""
    """Why there is no `merged`."""

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "Checks":
        """What `to_json` gave."""
        seen = data["seen"]
        return Checks(
            seen=Seen(
                pairs=seen["pairs"],
                accuracy={view: (value, low, high) for view, (value, low, high) in seen["accuracy"].items()},
                verdicts={view: PairedTest(**verdict) for view, verdict in seen["verdicts"].items()},
                refused=seen["refused"],
                moved=seen["moved"],
            ),
            held_out=data["held_out"],
            merged=None if data["merged"] is None else Merged(**data["merged"]),
            unmerged=data["unmerged"],
        )


def check(
    spec: ModelSpec,
    base: ModelSpec,
    pairs: Sequence[Preference],
    resident: AdapterHost,
    *,
    held_out: bool,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Checks:
    """Look at pairs with a checkpoint, and at merging where it is an adapter; needs two models' memory where it is
    none."""
    lm = resident.load(spec)
    if spec.adapter is None:
        reference = AdapterHost()
        try:
            seen = look_at_pairs(lm.hf, lm.processor, pairs, reference=reference.load(base).hf, progress=progress)
        finally:
            reference.drop()
        return Checks(seen=seen, held_out=held_out, merged=None, unmerged="all weights were trained")
    seen = look_at_pairs(lm.model, lm.processor, pairs, progress=progress)
    try:
        return Checks(seen=seen, held_out=held_out, merged=check_merging(lm.model, lm.processor, pairs[0]))
    except RunError as error:
        return Checks(seen=seen, held_out=held_out, merged=None, unmerged=str(error))
    finally:
        resident.drop()  # unmerged weights are rounded ones


def render(checks: Checks) -> str:
    """Checks as markdown."""
    seen = checks.seen
    names = {"image": "its image", "blank": "a grey image", "other": "another pair's image", "none": "no image"}
    rows = []
    for view, (value, low, high) in seen.accuracy.items():
        verdict = seen.verdicts.get(view)
        difference = (
            number(verdict.difference, "%", signed=True) + span(verdict.low, verdict.high, "%") if verdict else ""
        )
        rows.append(
            [names[view], number(value, "%") + span(low, high, "%"), difference, p_value(verdict.p) if verdict else ""]
        )
    which = "pairs that were held out" if checks.held_out else "pairs that were trained on"
    if seen.sees:
        text = "The image is looked at: without it pairs are told apart less well."
    elif seen.blind:
        text = "**A grey image does as well as the right one.**"
    else:
        text = "Whether the image is looked at can't be told from so few pairs."
    text += f" {seen.pairs} {which}, the policy's implicit reward of chosen against rejected answers; differences are paired by pair."
    text += f"\n\n{table(['shown with', 'told apart % ↑', 'difference', 'p'], rows)}"
    text += "".join(f"\n\nNot measured with {names[view]}: {why}." for view, why in seen.refused.items())
    text += f"\n\nAlong the chosen answers the policy is {seen.moved:.2g} nats a token from its reference (KL)."
    if checks.merged is None:
        return f"{text} Not merged: {checks.unmerged}."
    merged = f"Reloaded, the adapter changes logits by up to {checks.merged.effect:.3g}; merged into {checks.merged.dtype} weights"
    return f"{text} {merged} they differ from that by up to {checks.merged.error:.2g}."
