"""Several adapters of one base, scored one after the other on one base that stays in memory.

    host = AdapterHost()
    for checkpoint in checkpoints:
        lm = host.load(find(str(checkpoint)))       # the same LM, another adapter in it
    lm = host.load(find("llava-1.5-7b"))            # the plain base again

An adapter is put into the base's own modules and taken out again, so that the LM, its engine and what is known of its
images stay.
"""

import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from harness.engine.config import EngineConfig
from harness.models.chat_templates import chat_template_of
from harness.models.fetch import fetch
from harness.models.file_digests import digest_of_folder
from harness.models.load import cache_of
from harness.models.load import load as load_alone
from harness.models.spec import ModelSpec
from support.errors import ModelError

if TYPE_CHECKING:
    from PIL.Image import Image

    from harness.engine.jobs import TaskHints

log = logging.getLogger(__name__)

PROMPT: Final = "Is there a red circle?"


class AdapterHost:
    """Keeps the last loaded LM. What `load` gave before is the same object, changed, or is of no use any more."""

    def __init__(self, load: Callable[..., Any] = load_alone) -> None:
        self.lm: Any = None
        self._load = load
        self._base: Any = None
        """What the base in memory was loaded from."""
        self._weights: list[Any] = []
        self._sums: list[float] = []
        """Of the weights as they were loaded."""
        self._features_name: str | None = None
        """Under which the plain base's features are kept on disk, if they are."""
        self._vision_adapted = False
        """True while features are those of an adapter."""

    def load(
        self,
        spec: ModelSpec,
        engine: EngineConfig | None = None,
        *,
        hints: "TaskHints | None" = None,
        ledger: Path | None = None,
    ) -> Any:
        """The LM of `spec`, as `load` in load.py makes it: from the base in memory where that is the one, else loaded
        anew.

        An adapter that doesn't fit its base is a ModelError; one that changes nothing is a warning, for the first steps
        of a training may leave it so. The old base is dropped before a new one is loaded.
        """
        if spec.backend != "transformers":
            return self._load(spec, engine, hints=hints, ledger=ledger)
        spec, engine = fetch(spec), engine or EngineConfig()
        template = chat_template_of(spec, engine)
        base = _base_of(spec, engine)
        if base != self._base or not self._remove_adapter():
            self.drop()
            plain = replace(spec, adapter=None, base=None, chat_template=template)
            self.lm = self._load(plain, engine, hints=hints, ledger=ledger)
            self._base, self._vision_adapted = base, False
            self._features_name = None if self.lm.encoder.files is None else self.lm.encoder.files.model
            self._weights = [*self.lm.hf.parameters(), *self.lm.hf.buffers()]
            self._sums = _sum_each(self._weights)
        lm = self.lm
        lm.stage, lm.hints = f"answers of {spec.name}", hints or {}
        lm.cache = cache_of(spec, engine)  # answers of this adapter, not of its base
        lm.use_template(template, spec.name)
        lm.clock.seconds.clear()
        lm.counts.clear()
        if spec.adapter is not None:
            self._attach(spec, spec.adapter)
        return lm

    def drop(self) -> None:
        """Let go of the model."""
        if self.lm is None and self._base is None:  # to collect nothing takes a quarter of a second
            return
        self.lm, self._base, self._weights, self._sums = None, None, [], []
        gc.collect()  # adapters and their base refer to each other
        import torch

        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _attach(self, spec: ModelSpec, adapter: Path) -> None:
        from trainers.training.adapters import attach

        lm = self.lm
        try:
            lm._model = attach(lm.hf, adapter)
        except ModelError as error:
            self.drop()
            raise ModelError(f"{spec.name}: {error}") from error
        lm.peft = str(adapter)
        wrote = _sum_each(self._weights) != self._sums  # some kinds change the base's own weights: biases, PiSSA
        if wrote or _adapts_vision(lm):
            self._change_features(f" {digest_of_folder(adapter)}")
            self._vision_adapted = True
        if not wrote and not changes_something(lm):
            log.warning("%s: adapter %s changes nothing: logits are the same with it and without", spec.name, adapter)

    def _remove_adapter(self) -> bool:
        """Take the adapter out; True if the plain base is what is left."""
        lm = self.lm
        if lm._model is lm.hf:
            return True
        if hasattr(lm._model.base_model, "unload"):
            lm._model.base_model.unload()
        lm._model, lm.peft = lm.hf, None
        if self._vision_adapted:
            self._change_features("")
            self._vision_adapted = False
        left = [*lm.hf.parameters(), *lm.hf.buffers()]
        same = len(left) == len(self._weights) and all(
            one is other for one, other in zip(left, self._weights, strict=True)
        )
        return same and _sum_each(left) == self._sums

    def _change_features(self, adapter: str) -> None:
        """Features are those of another vision encoder from here on."""
        self.lm.forget()
        if self._features_name is not None:
            self.lm.encoder.files.model = self._features_name + adapter


def changes_something(lm: Any) -> bool:
    """True if the adapter in a SharedImageLM changes a logit of a short prompt, or of one about a small drawn image."""
    if not hasattr(lm.model, "disable_adapter"):
        return False
    try:
        if _changes_logits(lm, []):
            return True
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError):
        pass  # some families have no prompt without an image
    return _changes_logits(lm, [_draw_image()])


def _changes_logits(lm: Any, images: "list[Image]") -> bool:
    import torch

    applied = lm.chat_applied
    try:
        context = lm.apply_chat_template([{"role": "user", "content": "<image>" * len(images) + PROMPT}])
        inputs = lm.processor_inputs(context, images)
    finally:
        lm.chat_applied = applied  # lm-eval may ask without a template afterwards
    with torch.inference_mode():
        with_it = lm.hf(**inputs).logits
        with lm.model.disable_adapter():
            without = lm.hf(**inputs).logits
    return not torch.equal(with_it, without)


def _draw_image() -> "Image":
    from tasks.scenes.world import image_of

    return image_of("resident/0").resize((120, 80))  # wider than high: families that cut images into tiles make some


def _base_of(spec: ModelSpec, engine: EngineConfig) -> Any:
    """What must be the same for a base to be used again: all of a spec but its adapter and what is said about it."""
    plain = replace(spec, name="", pretrained="", folder=spec.local_folder.resolve(), adapter=None, digests={})
    plain = replace(plain, base=None, chat_template=None)
    plain = replace(plain, description="", licence="", gigabytes=None, image_tokens="", image_positions=None, needs="")
    return plain, replace(engine, answers=None, chat_template=None), digest_of_folder(spec.local_folder)


def _sum_each(weights: list[Any]) -> list[float]:
    import torch

    with torch.inference_mode():
        return [float(total) for total in [part.sum(dtype=torch.float64) for part in weights]]


def _adapts_vision(lm: Any) -> bool:
    """True if a module that the adapter is in takes part in an image's features."""
    if not lm.sharing.shares_images:
        return False
    import torch

    used: list[str] = []
    with _note_adapters_used(lm.hf, used), _without_trace(lm.encoder), torch.inference_mode():
        lm.encoder.encode([("resident/0", _draw_image())])
    return bool(used)


@contextmanager
def _note_adapters_used(model: Any, used: list[str]) -> Iterator[None]:
    """Inside, modules with an adapter that are run add their kind to `used`."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    adapted = [module for module in model.modules() if isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper))]
    hooks = [module.register_forward_hook(lambda module, *_: used.append(type(module).__name__)) for module in adapted]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _without_trace(encoder: Any) -> Iterator[None]:
    """Inside, what is encoded leaves no trace: nothing on disk, nothing in memory, no count."""
    files, kept, encoded = encoder.files, encoder.kept, encoder.encoded
    encoder.files, encoder.kept = None, type(kept)()
    try:
        yield
    finally:
        encoder.files, encoder.kept, encoder.encoded = files, kept, encoded
