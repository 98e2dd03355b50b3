"""An lm-eval LM for Hugging Face vision-language models that computes once what questions about one image share.

    lm = SharedImageLM("llava-hf/llava-1.5-7b-hf", EngineConfig(batch_size="auto"))
    lm.generate_until(requests)
    str(lm.sharing)         # "answers, image features, prefix"

All requests of a run, whatever task they come from, are planned by image (scheduler.py): the same question about the
same image is answered once, an image is decoded and encoded once (image_encoder.py), and the keys and values of a
prompt up to the end of its images are computed once for the questions that follow (prefix_cache.py), which are decoded
side by side (question_groups.py).
Families that allow less share less (sharing.py). `exact=True` shares nothing and asks one question at a time.
"""

import copy
import logging
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.hf_vlms import DEFAULT_IMAGE_PLACEHOLDER, HFMultimodalLM
from PIL.Image import Image
from transformers import AutoConfig

from harness.engine import work_sharing
from harness.engine.chat_template import PADDED, PICTURES, ChatTemplate, check_switch, check_template
from harness.engine.config import SAMPLED_AT_ONCE, EngineConfig
from harness.engine.equivalence_check import check_equivalence
from harness.engine.families import COUNTS_IMAGES, INTERLEAVED
from harness.engine.family_prompts import obey_prompt
from harness.engine.feature_files import Encoded, FeatureFiles
from harness.engine.greedy_decoding import DecodingRules, GreedyDecoder
from harness.engine.image_encoder import ImageEncoder
from harness.engine.jobs import IMAGE_WEIGHT, Job, TaskHints, distinct_jobs, may_be_kept
from harness.engine.own_decoding import FACT, in_words, keep_token_ids
from harness.engine.prompt_layout import PromptLayout
from harness.engine.question_groups import GroupRunner
from harness.engine.scheduler import Scheduler
from harness.engine.sharing import Sharing
from harness.engine.stage_timer import StageTimer
from harness.engine.transformers_generation import TransformersGeneration
from leaderboards.board.entry import MODEL_SIZE
from support.errors import HarnessError, ModelError, SettingError, one_line
from support.images import image_digest
from support.processes import as_single_process, rank, world_size
from support.progress import report
from tasks.answer import Answer, FailedAnswer
from tasks.thoughts import ROOM_FOR_THOUGHTS, generated, has_thoughts, is_decided, marks_in
from trainers.training.llava_15 import pad_pictures
from trainers.training.read_base import CompleteModel, check_own_tokenizers

if TYPE_CHECKING:
    from harness.engine.response_cache import ModelCache

log = logging.getLogger(__name__)

TEXT_BATCH_SIZE: Final = 8
"""Questions of text alone that lm-eval asks at once, unless a batch size is given."""


class SharedImageLM(HFMultimodalLM):
    """See the module's docstring.

    `hints`: by task or request, when an answer may stop early; `cache`: answers kept over runs; `identity`: a digest of
    the weights, for image features kept on disk; `stage`: the name of the progress bar; `template`: the chat template
    in place of the checkpoint's; `pad`: pictures are padded to a square first. All other arguments are those of
    lm-eval's HFMultimodalLM and of transformers' loading.
    """

    AUTO_MODEL_CLASS = CompleteModel

    def __init__(
        self,
        pretrained: str,
        engine: EngineConfig | None = None,
        *,
        hints: TaskHints | None = None,
        cache: "ModelCache | None" = None,
        identity: str | None = None,
        stage: str = "answers",
        template: ChatTemplate | None = None,
        pad: bool = False,
        **lm_eval: Any,
    ) -> None:
        engine = engine or EngineConfig()
        trusted = lm_eval["trust_remote_code"] = bool(lm_eval.get("trust_remote_code"))
        config = AutoConfig.from_pretrained(
            pretrained, revision=lm_eval.get("revision") or "main", trust_remote_code=trusted
        )
        engine.check_overrides(pretrained, config)
        lm_eval |= engine.loading_arguments()
        if config.model_type in INTERLEAVED:
            lm_eval.setdefault("image_string", DEFAULT_IMAGE_PLACEHOLDER)  # it has no token that stands for an image
        batch_size = None if engine.batch_size in (None, "auto") else int(engine.batch_size)
        with as_single_process():  # lm-eval would divide questions between processes, not images
            super().__init__(pretrained, batch_size=batch_size or TEXT_BATCH_SIZE, **lm_eval)
        _check_pixels(self.pixels, self.processor, pretrained)
        self.padded = pad
        if pad:
            pad_pictures(self.processor)
        self.model.eval()
        check_own_tokenizers(self.processor, pretrained)
        self.hf: Any = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        """The model itself, adapters inside it."""
        self.settings_not_used = keep_token_ids(self.hf)
        """Of the checkpoint's generation_config.json: what would have changed its answers."""
        self.hf.generation_config.repetition_penalty = engine.repetition_penalty
        obey_prompt(self.hf, self.tokenizer)
        if engine.compile:
            self.hf.forward = torch.compile(self.hf.forward, dynamic=True)
        self.stage, self.suffix, self.cache = stage, engine.suffix or "", cache
        self.thinking = engine.thinking
        self.met_thoughts = False
        """Whether an answer had any."""
        self.hints: TaskHints = hints or {}
        self.clock = StageTimer()
        self.counts: defaultdict[str, int] = defaultdict(int)
        """asked, answered, from the store, cut, prefix shared, out of memory."""
        self.sharing = Sharing(level=engine.share, exact=engine.exact, checked=engine.exact)
        self._build_engine(engine, batch_size, identity or str(pretrained))
        self.template: ChatTemplate | None = None
        own = getattr(self.processor, "chat_template", None) or getattr(self.tokenizer, "chat_template", None)
        self.rules.take_marks(marks_in(own if isinstance(own, str) else None))
        if template is None and self.thinking is not None:
            template = ChatTemplate(text=own, source=str(pretrained))
        if template is not None:
            self.use_template(template, str(pretrained))

    def use_template(self, template: ChatTemplate, model: str) -> None:
        """Ask by this template from here on; ModelError for one that can't ask `model` about a picture."""
        self.template = template
        check_switch(template, self.thinking, model)
        text = template.text if self.thinking is None else template.with_thinking(self.thinking == "on")
        self.processor.chat_template = self.tokenizer.chat_template = text
        self.rules.take_marks(marks_in(text))
        if template.text is not None:
            check_template(template, self.processor, model)

    def _build_engine(self, engine: EngineConfig, batch_size: int | None, identity: str) -> None:
        workers = engine.workers
        if workers is None:
            workers = min(8, max(0, torch.get_num_threads() - 1)) if self.device.type == "cuda" else 0
        self.encoder = ImageEncoder(
            self.hf,
            self.processor,
            self.device,
            clock=self.clock,
            workers=workers,
            max_bytes=engine.kept_bytes,
            files=None if engine.features is None else FeatureFiles(engine.features, identity),
        )
        pad = self.tokenizer.pad_token_id or 0
        self.runner = GroupRunner(self.hf, pad=pad, device=self.device, compiled=engine.compile)
        if (reason := self.encoder.why_not()) is not None:
            self.sharing.fall_back("answers", reason)
        elif (reason := self.runner.why_no_prefix()) is not None:
            self.sharing.fall_back("features", reason)
        self.layout = PromptLayout(
            self.hf,
            self.processor,
            image_token=self.image_token,
            image_token_id=getattr(self, "image_token_id", None),
            max_images=self.max_images,
            device=self.device,
        )
        self.rules = DecodingRules(
            self.hf,
            self.tokenizer,
            default_new_tokens=self.max_gen_toks,
            max_new_tokens=engine.max_new_tokens,
            thinking_tokens=ROOM_FOR_THOUGHTS if engine.thinking_tokens is None else engine.thinking_tokens,
        )
        self.decoder = GreedyDecoder(self.runner, self.rules, clock=self.clock, counts=self.counts)
        self.scheduler = Scheduler(self.encoder, self.layout, self.decoder, self.sharing, batch_size=batch_size)
        self.generation = TransformersGeneration(
            self.scheduler, most=SAMPLED_AT_ONCE if engine.batch_size is None else None
        )

    @property
    def images_encoded(self) -> int:
        """Images that went through the model's vision encoder."""
        return self.encoder.encoded

    def provenance(self) -> dict[str, str]:
        """What entries record: what was shared, the image processor, the dtype, the model's size."""
        processor = type(getattr(self.processor, "image_processor", self.processor)).__name__
        dtype = str(self.hf.dtype).removeprefix("torch.")
        found = {"shared": str(self.sharing), "image processor": processor, "dtype": dtype}
        found[MODEL_SIZE] = str(self.hf.num_parameters())
        found |= {"prompt suffix": self.suffix} if self.suffix else {}
        found |= {FACT: in_words(self.settings_not_used)} if self.settings_not_used else {}
        if self.thinking is not None or self.met_thoughts:
            switch = self.thinking or "as the model does by itself"
            found["thinking"] = switch if switch == "off" else f"{switch}, at most {self.rules.thinking_tokens} tokens"
        found |= {PICTURES: PADDED} if self.padded else {}
        return found | (self.template.facts() if self.template is not None else {})

    def forget(self) -> None:
        """Drop all image features from memory."""
        self.encoder.forget()

    def tokens(self, context: str, images: Sequence[Image]) -> list[int]:
        """A prompt's token ids, those of its images included."""
        if self.sharing.shares_images:
            encoded = self.encoder.encode([(image_digest(image), image) for image in images])
            readable = [image for image in encoded if isinstance(image, Encoded)]
            return self.layout.ids(context, readable, templated=self.chat_applied)
        return [int(token) for token in self.processor_inputs(context, images)["input_ids"][0]]

    def processor_inputs(self, context: str, images: Sequence[Image]) -> dict[str, Any]:
        """The model's inputs for a prompt, made by the checkpoint's processor."""
        return self.layout.processor_inputs(context, images, templated=self.chat_applied)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The checkpoint's own template, images first; the plain text where it has none."""
        if self.suffix and chat_history and chat_history[-1]["role"] == "user":
            last = chat_history[-1]
            chat_history = [*chat_history[:-1], last | {"content": last["content"] + self.suffix}]
        if all(getattr(owner, "chat_template", None) is None for owner in (self.processor, self.tokenizer)):
            return "\n".join(turn["content"] for turn in chat_history)
        applied: str = super().apply_chat_template(copy.deepcopy(chat_history), add_generation_prompt)
        return applied

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """One answer a request; a FailedAnswer where an image could not be read. WorkerDone in all processes but the
        first."""
        with_images = [index for index, request in enumerate(requests) if len(request.args) >= 3]
        text_only = [index for index, request in enumerate(requests) if len(request.args) < 3]
        results: list[str] = [FailedAnswer("not answered")] * len(requests)
        if text_only:  # lm-eval passes requests of text-only tasks together with the others
            answers = super().generate_until([requests[index] for index in text_only], disable_tqdm)
            for index, text in zip(text_only, answers, strict=True):
                results[index] = generated(text, requests[index].args[0], own=self.rules.own_marks)
        if not with_images:
            return results
        self.counts["asked"] += len(with_images)
        jobs = self.jobs_of([requests[index] for index in with_images])
        done = 0
        for job, text in self._answer_with_others(jobs) if world_size() > 1 else self._answer(jobs):
            text = generated(text, job.context, own=self.rules.own_marks)
            self.met_thoughts = self.met_thoughts or bool(getattr(text, "reasoning", None))
            for index in job.requests:
                results[with_images[index]] = text
            done += len(job.requests)
            if world_size() == 1 and not disable_tqdm:
                report(self.stage, done, len(with_images))
        return results

    def jobs_of(self, requests: Sequence[Instance]) -> list[Job]:
        """The distinct questions."""
        return distinct_jobs(
            requests, self.hints, max_images=self.max_images, templated=self.chat_applied, merge=not self.sharing.exact
        )

    def _answer_with_others(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, str]]:
        """Answer this process's share of the images; then everyone's answers in the first process, WorkerDone in the
        others."""
        weights: defaultdict[Hashable, int] = defaultdict(lambda: IMAGE_WEIGHT)
        for job in jobs:
            weights[job.digests] += 1
        owners = work_sharing.divide(weights, world_size())
        mine = [number for number, job in enumerate(jobs) if owners[job.digests] == rank()]
        numbers = {id(jobs[number]): number for number in mine}
        answered = []
        for done, (job, text) in enumerate(self._answer([jobs[number] for number in mine]), 1):
            answered.append((numbers[id(job)], text))
            if rank() == 0:
                report(self.stage, done, len(mine))
        own = dict(self.counts)
        for texts, counts in work_sharing.gather([(answered, own)]):
            yield from ((jobs[number], text) for number, text in texts)
            if counts is not own:
                for name, count in counts.items():
                    self.counts[name] += count if name != "asked" else 0

    def _answer(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, str]]:
        """Answers kept from earlier runs, then the model's, which are kept as they come."""
        left = []
        for job in jobs:
            kept = self._find_kept(job) if self.cache is not None and may_be_kept(job) else None
            if kept is None:
                left.append(job)
            else:
                self.counts["from the store"] += len(job.requests)
                yield job, kept
        if self.cache is not None and (told := self.cache.reused.take("answer", "answers")):
            log.info("%s: %s", self.stage, told)
        for job, text in self._ask_model(left):
            self.counts["answered"] += 1
            if self.cache is not None and may_be_kept(job) and not isinstance(text, FailedAnswer):
                thinks = has_thoughts(text, job.context, own=self.rules.own_marks)
                self.cache.put(self._cache_key(job, thinks=thinks), text, task=job.task)
            yield job, text

    def _find_kept(self, job: Job) -> Answer | None:
        """The answer that the store has; not one that was stopped within what may be a mark of thoughts."""
        decided, own = job.hints.decided, self.rules.own_marks

        def is_whole(answer: Answer) -> bool:
            return not answer.cut or decided is None or is_decided(answer, job.context, decided, own=own)

        def is_whole_without_thoughts(answer: Answer) -> bool:
            return is_whole(answer) and not has_thoughts(answer, job.context, own=own)

        if self.cache is None:
            return None
        kept = self.cache.get(self._cache_key(job, thinks=True), is_whole=is_whole)
        if kept is not None:
            return kept
        return self.cache.get(self._cache_key(job), is_whole=is_whole_without_thoughts)

    def _cache_key(self, job: Job, *, thinks: bool = False) -> dict[str, Any]:
        """Everything an answer depends on beside the model; of one that has thoughts, the room for these, too."""
        return ({"thinking tokens": self.rules.thinking_tokens} if thinks else {}) | {
            "prompt": job.context,
            "images": list(job.digests),
            "settings": dict(sorted(job.settings.items())),
            "new tokens": self.rules.new_tokens(job),
            "rule": job.hints.rule if job.hints.decided is not None else "",
            "choices": list(job.hints.choices),
        }

    def _ask_model(self, jobs: list[Job]) -> Iterator[tuple[Job, str]]:
        try:
            yield from self._ask_by_kind(jobs)
        except (HarnessError, OSError):
            raise
        except torch.OutOfMemoryError as error:
            raise ModelError(f"{self.stage}: {self.scheduler.describe_lack()} ({one_line(error)[:200]})") from error
        except Exception as error:  # of the model's own code: its configuration need not fit its weights
            words = f"{type(error).__name__}: {one_line(error)[:300]}"
            raise ModelError(f"{self.stage}: the model fails at a question: {words}") from error

    def _ask_by_kind(self, jobs: list[Job]) -> Iterator[tuple[Job, str]]:
        independent = [job for job in jobs if self._images_independent(job)]
        greedy = [job for job in independent if self.rules.can_decode(job)]
        yield from self.generation.answer_one_by_one([job for job in jobs if not self._images_independent(job)])
        if not self.sharing.checked and greedy and not self.sharing.exact:
            check_equivalence(greedy, self.scheduler)
        if not self.sharing.shares_images:
            yield from self.generation.answer_one_by_one(independent)
            return
        yield from self.scheduler.answers(greedy)
        by_settings: dict[str, list[Job]] = defaultdict(list)
        for job in independent:
            if not self.rules.can_decode(job):
                by_settings[repr((bool(job.images), sorted(job.settings.items())))].append(job)
        for group in by_settings.values():
            yield from self.generation.answer_with_shared_features(group)

    def _images_independent(self, job: Job) -> bool:
        """True if the images may be processed one by one."""
        return len(job.images) < 2 or self.hf.config.model_type not in COUNTS_IMAGES


def _check_pixels(given: Mapping[str, int], processor: Any, model: str) -> None:
    """SettingError for limits of an image's size that the model's processor passes over."""
    images = getattr(processor, "image_processor", None)
    known = getattr(getattr(images, "valid_kwargs", None), "__annotations__", None)
    for name, value in given.items():
        if known is not None and name not in known:
            raise SettingError(f"{model}: {name} = {value}: would not act: {type(images).__name__} has no such limit")
