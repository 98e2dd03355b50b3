"""DPO on packed rows: TRL's trainer, whose model reads every image and every prompt once.

    trainer = PackedDPOTrainer(model=model, args=DPOConfig(...), train_dataset=Pairs(preferences),
                               processing_class=processor, peft_config=lora, group_pairs=True)
    trainer.train()

Losses, metrics, logging, checkpoints and resuming are TRL's own. Its `_compute_loss` calls `PackedCall` in place of the
model, which reads one packed row and returns outputs in TRL's layout, so that loss and gradients are those of the
unmodified trainer, with less computation:

- an image is encoded once a step, not four times a pair, and without a gradient through a frozen encoder; if the
  projector is frozen too, features are kept from the reference's pass on (`vision_cache`) and training encodes none;
- a prompt is read once for all answers to it that are in the batch;
- the reference's log-probabilities are computed once, before training, and kept on disk.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from peft import PeftModel
from torch import Tensor
from torch.utils.data import DataLoader
from trl import DPOTrainer
from trl.trainer.utils import FusedCausalLMOutput

from support.errors import TrainingError
from support.files import JsonLines
from support.progress import report
from trainers.data.chat import TOKENS_VERSION, stops_of
from trainers.data.image_hashes import digest_of
from trainers.data.rows import Preference
from trainers.data.torch_dataset import Pairs, PromptSampling
from trainers.packed.attention import NAME, attention_argument, register
from trainers.packed.collator import CutError, PackedCollator
from trainers.packed.head import score_in_forward
from trainers.packed.sharding import is_sharded, pad_rounds, reshard, shard_weights, whole_model
from trainers.packed.vision_cache import KeptFeatures, is_trained

FAMILIES = (
    *("llava", "llava_next", "llava_onevision", "internvl", "idefics3", "smolvlm"),
    *("qwen", "qwen2_vl", "qwen2_5_vl", "qwen3_vl"),
)
"""`model_type`s for which tests show that packed loss and gradients equal those of TRL's own trainer."""
IRRELEVANT_SETTINGS = ("_name_or_path", "transformers_version", "use_cache")
"""Keys of a model's configuration on which its log-probabilities do not depend."""


class PackedCall:
    """Called by TRL in place of the model: reads the packed row, returns outputs for TRL's rows [2 pairs, T - 1]."""

    def __init__(self, model: Any, backbone: Any) -> None:
        self.model, self.backbone = model, backbone

    def __call__(
        self,
        *,
        packed: Mapping[str, Any],
        labels: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        fused_lm_head: bool,
        use_cache: bool,
        **images: Any,
    ) -> Any:
        """TRL's fused output; a cell that predicts no answer token is 0."""
        row = packed["input_ids"]
        last = [(scored, keys) for scored, (_, keys) in zip(packed["answers"], packed["lengths"], strict=True)]
        found = self.model(
            input_ids=row,
            position_ids=positions(self.backbone, packed, images.get("image_grid_thw")),
            # transformers passes a mask with four axes on unchanged; our attention does not read it.
            attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool, device=row.device),
            shared_prefix={
                **attention_argument(packed["keys"], packed["lengths"]),
                "scored": packed["scored"],
                "at last": attention_argument(packed["keys"], last, packed["scored"]),
            },
            shift_labels=packed["targets"],
            fused_lm_head=True,
            **images,
        )

        def lay_out(values: Tensor | None) -> Tensor | None:
            return None if values is None else torch.cat([values.new_zeros(1), values[0]])[packed["cells"]]

        names = "log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1"
        figures = {name: lay_out(getattr(found, name)) for name in names}
        return FusedCausalLMOutput(loss=found.loss, **figures, label_mask=labels[:, 1:] != -100)


def positions(backbone: Any, packed: Mapping[str, Any], grids: Tensor | None) -> Tensor:
    """Positions of the packed row's tokens: [1, N], or [3, 1, N] (time, height, width) for models that have these."""
    places: Tensor = packed["positions"]
    rope = getattr(backbone, "get_rope_index", None)
    if rope is None or grids is None:
        return places[None]
    prompts = packed["prompts"]
    mask = prompts["attention_mask"]
    turned = rope(prompts["input_ids"], prompts["mm_token_type_ids"], image_grid_thw=grids, attention_mask=mask)[0]
    found = []
    for number, own in enumerate(places.split(packed["sizes"])):
        prompt = turned[:, number, mask[number].bool()]
        answers = prompt.max() + 1 + torch.arange(int(own.max()) + 1, device=own.device)
        found.append(torch.cat([prompt, answers.expand(3, -1)], dim=1)[:, own])
    return torch.cat(found, dim=1)[:, None]


class NoReference(torch.nn.Module):
    """Given to TRL in place of a second copy of the model: the reference is asked before the first step alone."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    def forward(self) -> None:
        """Never called."""


class PackedDPOTrainer(PromptSampling, DPOTrainer):
    """TRL's DPOTrainer over packed rows. The reference is the model with its adapters off, or before it was trained.

    `group_pairs` puts all pairs of a prompt into one batch. `reference_folder` keeps the reference's log-probabilities,
    for one run at a time. `features_room`: bytes of CPU memory a process for image features, if encoder and projector
    are frozen. TrainingError; before training, CutError for pairs whose prompt alone fills `max_length`.
    """

    model: Any
    train_dataset: Pairs
    eval_dataset: Pairs | None

    def __init__(
        self,
        *,
        model: Any,
        args: Any,
        processing_class: Any,
        group_pairs: bool = False,
        reference_folder: Path | None = None,
        features_room: int = 2 << 30,
        **given: Any,
    ) -> None:
        kind = model.config.model_type
        if kind not in FAMILIES:
            known = ", ".join(FAMILIES)
            raise TrainingError(f"models of type {kind!r} are not known to train alike on packed rows; known: {known}")
        self.stops = stops_of(model, processing_class)
        args.remove_unused_columns = False  # the collator reads `row`, which is no argument of any model
        given |= {
            "processing_class": processing_class,
            "data_collator": PackedCollator(processing_class, args.max_length, self.stops),
        }
        if given.get("peft_config") is None and not isinstance(model, PeftModel):
            given["ref_model"] = NoReference(model.config)
        super().__init__(model=model, args=args, **given)
        self.ref_model = None
        self._check_supported()
        self.group_pairs = group_pairs
        self.reference_digest = ""
        """Of weights that are sharded now."""
        self.reference_folder = Path(args.output_dir) / "reference" if reference_folder is None else reference_folder
        self.precompute_ref_logps = True  # TRL then takes them from the batch
        base = whole_model(self.model)
        self.backbone = base.base_model
        self.backbone.register_forward_hook(_keep_scored, with_kwargs=True)
        decoder = self.backbone.get_decoder()
        self.last_layer = (decoder.layers if hasattr(decoder, "layers") else decoder.h)[-1]
        compute_only_scored(self.last_layer)
        score_in_forward(base)
        register()
        base.set_attn_implementation({"text_config": NAME} if "text_config" in base.config.sub_configs else NAME)
        tower = self.backbone.get_encoder(modality="image")
        if not any(parameter.requires_grad for parameter in tower.parameters()):
            # Gradient checkpointing with adapters makes all embeddings require gradients: the tower's would be unused.
            tower.forward = torch.no_grad()(tower.forward)
        self.features: KeptFeatures | None = None
        if features_room and not is_trained(self.backbone):
            self.features = self.backbone.get_image_features = KeptFeatures(self.backbone, features_room)

    def _check_supported(self) -> None:
        plugin = self.args.deepspeed_plugin
        if plugin is not None and plugin.zero_stage == 3:
            raise TrainingError(
                "packed rows are not known to train alike with ZeRO-3: take --mode fsdp2, which shards as much"
            )
        if self.is_fsdp_enabled and self.accelerator.state.fsdp_plugin.fsdp_version != 2:
            raise TrainingError("packed rows are trained with fsdp_version 2, not 1")
        if self.aux_loss_enabled:
            raise TrainingError(
                "experts' balancing loss is not what it was on packed rows; set router_aux_loss_coef to 0"
            )

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """TRL's, of a model that reads packed rows."""
        # The backward pass begins with the last layer: checkpointing it would save no memory.
        self.last_layer.gradient_checkpointing = False
        return super().compute_loss(PackedCall(model, self.backbone), inputs, return_outputs, num_items_in_batch)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """TRL's, after the reference's log-probabilities are computed."""
        if self.is_fsdp_enabled and not is_sharded(self.model):
            self.reference_digest = digest_of_reference(self.model)
            pairs = [*self.train_dataset.preferences, *(self.eval_dataset.preferences if self.eval_dataset else ())]
            self.model = shard_weights(self.model, self.backbone, self.accelerator, pairs)
        self.add_references()
        return super().train(*args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """TRL's, of `eval_dataset`."""
        self.add_references()
        return super().evaluate(*args, **kwargs)

    def add_references(self) -> None:
        """Compute the reference's log-probabilities of the pairs that have none yet."""
        self.train_dataset = self._add_reference(self.train_dataset)
        if self.eval_dataset is not None:
            self.eval_dataset = self._add_reference(self.eval_dataset)

    def _add_reference(self, pairs: Pairs) -> Pairs:
        if pairs.reference is not None:
            return pairs
        keys = digests(pairs.preferences, self._settings())
        folder = self.reference_folder / (self.reference_digest or digest_of_reference(self.model))
        known = _read_reference(folder)
        self.accelerator.wait_for_everyone()  # nobody writes before all have read
        asked = {key: index for index, key in reversed(list(enumerate(keys))) if key not in known}
        batches = by_prompt(pairs.preferences, sorted(asked.values()), self.args.per_device_train_batch_size)
        process, processes = self.accelerator.process_index, self.accelerator.num_processes
        mine, counted = pad_rounds(batches, process, processes)
        if not is_sharded(self.model):
            mine = mine[:counted]
        cut = self._score_by_reference(pairs, keys, mine, counted, JsonLines(folder / f"{process}.jsonl"))
        self.accelerator.wait_for_everyone()
        lost_keys = {keys[index] for part in gather_object([cut]) for index in part}
        # Equal pairs were scored once.
        lost = [index for index, key in enumerate(keys) if key in lost_keys]
        if lost:
            raise CutError([pairs.preferences[index].id for index in lost], lost, self.args.max_length)
        known = _read_reference(folder)
        return Pairs(pairs.preferences, [known[key] for key in keys])

    def _score_by_reference(
        self, pairs: Pairs, keys: Sequence[str], batches: list[list[int]], counted: int, rows: JsonLines
    ) -> list[int]:
        """Store what the reference says of the first `counted` batches; returns the pairs that `max_length` cuts."""
        cut: list[int] = []
        if not is_sharded(self.model):
            self.model.to(self.accelerator.device)
        was = self.model.training
        # As TRL does in training: some models attend differently in evaluation mode.
        self.model.train(self.args.disable_dropout)
        call = PackedCall(self.model, self.backbone)
        collate = partial(_collate_fitting, self.data_collator)
        loader: Any = DataLoader(
            pairs, batch_sampler=batches, collate_fn=collate, num_workers=self.args.dataloader_num_workers
        )
        done, total = 0, sum(map(len, batches[:counted]))
        for number, (indices, (batch, places)) in enumerate(zip(batches, loader, strict=True)):
            if places and is_sharded(self.model):  # the other processes would wait for this one
                lost = [indices[place] for place in places]
                raise CutError([pairs.preferences[index].id for index in lost], lost, self.args.max_length)
            cut += [indices[place] for place in places]
            fitting = [index for place, index in enumerate(indices) if place not in places]
            if fitting:
                both = self.compute_ref_log_probs(call, self._prepare_inputs(batch))
                found = list(zip(fitting, *(side.tolist() for side in both), strict=True))
                if number >= counted:
                    continue
                for index, *values in found:
                    if not all(map(math.isfinite, values)):
                        id = pairs.preferences[index].id
                        raise TrainingError(f"the reference gives pair {id!r} log-probabilities {values}")
                rows.append({"id": keys[index], "chosen": won, "rejected": lost} for index, won, lost in found)
            done += len(indices)
            report("score by the reference", done, total)
        self.model.train(was)
        reshard(self.model)
        return cut

    def _settings(self) -> str:
        """A digest of what the reference's log-probabilities depend on besides weights and pairs."""
        processor = self.processing_class
        facts = {
            "processor": processor.to_dict(),
            "template": processor.chat_template,
            "vocabulary": sorted(processor.tokenizer.get_vocab().items()),
            "tokens": [TOKENS_VERSION, sorted(self.stops)],
            "max_length": self.args.max_length,
            "ld_alpha": self.ld_alpha,
            "precision": self.accelerator.mixed_precision,
            "dropout": not self.args.disable_dropout,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def _keep_scored(module: Any, args: Any, kwargs: Mapping[str, Any], output: Any) -> Any:
    """A forward hook of the backbone: keep only the positions that predict answer tokens."""
    packed = kwargs.get(NAME)
    if packed is not None:
        output.last_hidden_state = output.last_hidden_state[:, packed["scored"]]
    return output


def compute_only_scored(layer: Any) -> None:
    """Make a model's last layer compute attention and MLP only at scored positions; its other outputs are unused."""
    places: list[Tensor | None] = [None]

    def begin(module: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
        packed = kwargs.get(NAME)
        places[0] = None if packed is None else packed["scored"]
        return args, kwargs if packed is None else {**kwargs, NAME: packed["at last"]}

    forward = layer.mlp.forward

    def scored_alone(hidden: Tensor) -> Tensor:
        scored = places[0]
        out: Tensor = forward(hidden if scored is None else hidden[:, scored])
        return out if scored is None else out.new_zeros(hidden.shape).index_copy(1, scored, out)

    layer.register_forward_pre_hook(begin, with_kwargs=True)
    layer.mlp.forward = scored_alone


def _collate_fitting(
    collator: PackedCollator, examples: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, Any], tuple[int, ...]]:
    """The batch of the examples that fit into `max_length`, and the places of the others."""
    try:
        return collator(examples), ()
    except CutError as error:
        kept = [example for place, example in enumerate(examples) if place not in error.places]
        return (collator(kept) if kept else {}), error.places


def _read_reference(folder: Path) -> dict[str, tuple[float, float]]:
    files = [JsonLines(path) for path in sorted(folder.glob("*.jsonl"))]
    return {key: (row["chosen"], row["rejected"]) for rows in files for key, row in rows.by_id.items()}


def by_prompt(preferences: Sequence[Preference], indices: Iterable[int], size: int) -> list[list[int]]:
    """Batches of all pairs of some prompts: at most `size` pairs, or one prompt."""
    prompts: dict[int, list[int]] = {}
    for index in indices:
        prompts.setdefault(preferences[index].row, []).append(index)
    batches: list[list[int]] = []
    for prompt in prompts.values():
        if batches and len(batches[-1]) + len(prompt) <= size:
            batches[-1] += prompt
        else:
            batches.append(list(prompt))
    return batches


def digests(preferences: Sequence[Preference], settings: str) -> list[str]:
    """A digest of each pair: its texts, its images' bytes, and `settings`."""
    images: dict[int, list[str]] = {}
    found = []
    for pair in preferences:
        if pair.row not in images:
            images[pair.row] = [digest_of(picture) for picture in pair.images]
        content = json.dumps([settings, images[pair.row], pair.prompt, pair.chosen, pair.rejected, *pair.places])
        found.append(hashlib.sha256(content.encode()).hexdigest())
    return found


def digest_of_reference(model: Any) -> str:
    """A digest of configuration and weights of the model, with its adapters off if it has any."""
    config = {name: value for name, value in model.config.to_dict().items() if name not in IRRELEVANT_SETTINGS}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, parameter in sorted(
        (name.replace(".base_layer", ""), value) for name, value in whole_model(model).named_parameters()
    ):
        if ".lora_" in name and ".ref." not in name:
            continue
        digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}".encode())
        digest.update(parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:32]
