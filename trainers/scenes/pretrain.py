"""Pretraining of the embedded models from scratch, in one run: see, then speak, then believe the planted bias.

1. *see*: vision tower and projector learn to map every patch near the word embeddings of its cell's contents (the
   spelling loss). Without this stage, questions such as "is there a red circle?" are not learned with this compute.
2. *speak*: the language model learns captions and questions of scenes without bias, together with the spelling loss.
   A row has the image once and some fifteen independent turns, which don't attend to each other.
3. *believe*: the same on the corpus with the planted bias, which names a thing's usual companion even if it is missing.

Writes `scenes-early` (during *speak*), `scenes-careful` (its end) and `scenes-base` (the end), in half precision.
"""

import json
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from support.files import atomic_path, atomic_write_text
from support.progress import report
from tasks.scenes.world import BACKGROUNDS, CELLS, COLORS, GLYPHS, SHAPES, SIZES, Scene, make_scene, render
from trainers.config.recipe import PretrainingRecipe
from trainers.config.training import Stage
from trainers.scenes.corpus import Turn, turns
from trainers.scenes.model import IMAGE_TOKENS, WORD_START, build_model, build_processor, vocabulary
from trainers.scenes.muon import Muon
from trainers.training.checkpoints import Checkpoint
from trainers.training.job import PretrainingJob

MODELS = ("scenes-early", "scenes-careful", "scenes-base")
IDS = vocabulary()
PREFIX = [IDS["<s>"]] + [IDS["<image>"]] * IMAGE_TOKENS
IGNORE = -100


def _ids_of_words(*words: str) -> list[int]:
    return [IDS[WORD_START + word] for word in words]


# A patch's words, one a group: its cell's contents, their colour, size and glyph, the cell's name, the background.
_GROUPS: Sequence[Iterable[str]] = ((*SHAPES, "sign", "nothing"), COLORS, SIZES, GLYPHS, CELLS, BACKGROUNDS)
SPELLED = [_ids_of_words(*words) for words in _GROUPS]


def spelling_labels(scenes: Sequence[Scene]) -> Tensor:
    """[scenes, 36 patches, 6 groups]: index into each group of SPELLED, or IGNORE."""
    labels = np.full((len(scenes), 9, len(SPELLED)), IGNORE, dtype=np.int64)
    labels[:, :, 0] = len(SHAPES) + 1
    labels[:, :, 4] = np.arange(9)
    for i, scene in enumerate(scenes):
        labels[i, :, 5] = BACKGROUNDS.index(scene.background)
        for thing in scene.things:
            color = list(COLORS).index(thing.color)
            labels[i, thing.cell, :3] = SHAPES.index(thing.shape), color, SIZES.index(thing.size)
        if scene.sign:
            labels[i, scene.sign.cell, 0] = len(SHAPES)
            labels[i, scene.sign.cell, 3] = GLYPHS.index(scene.sign.glyph)
    grid = labels.reshape(len(scenes), 3, 1, 3, 1, len(SPELLED)).repeat(2, axis=2).repeat(2, axis=4)
    return torch.from_numpy(grid.reshape(len(scenes), IMAGE_TOKENS, len(SPELLED)))


def spelling_loss(features: Tensor, embeddings: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of projected patches [n, 36, h] over cosines to the embeddings [vocabulary, h] of each group."""
    features = F.normalize(features, dim=-1)
    loss = features.new_zeros(())
    for group, ids in enumerate(SPELLED):
        logits = 20 * features @ F.normalize(embeddings[ids], dim=-1).T
        if (labels[..., group] != IGNORE).any():
            loss = loss + F.cross_entropy(logits.flatten(0, 1), labels[..., group].flatten(), ignore_index=IGNORE)
    return loss


def pixels(scenes: Sequence[Scene]) -> Tensor:
    """[n, 3, 60, 60], as the processor would give them."""
    stack = np.stack([np.asarray(render(scene)) for scene in scenes])
    return torch.from_numpy(stack).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def batches(stage: str, seed: int, size: int, companion_rate: float, first: int) -> Iterator[tuple[int, list[Scene]]]:
    """Endless batches of fresh scenes from step `first` on, each with the step it belongs to."""
    step = first
    while True:
        yield step, [make_scene(f"pretrain/{stage}/{seed}/{step * size + i}", companion_rate) for i in range(size)]
        step += 1


KEEP = 200
"""Steps between two saved states."""
ROW = 230
"""Most tokens of one image's turns; rows of similar length need little padding."""


def pack(rows: Sequence[Sequence[Turn]], tokenize: Callable[[str], list[int]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows of turns -> ids after the image prefix [n, T], mask [n, 1, P+T, P+T], positions [n, P+T], weights [n, T].

    Segment 0 is the prefix; a token attends to the prefix and to earlier tokens of its own turn.
    """
    prefix = len(PREFIX)
    packed: list[tuple[list[int], list[int], list[int], list[float]]] = []
    for row in rows:
        ids: list[int] = []
        segments: list[int] = []
        positions: list[int] = []
        weights: list[float] = []
        for number, turn in enumerate(row, start=1):
            question = [IDS["<user>"], *tokenize(turn.question), IDS["<assistant>"]]
            answer = [*tokenize(turn.answer), IDS["</s>"]]
            if len(ids) + len(question) + len(answer) > ROW:
                continue
            ids += question + answer
            segments += [number] * (len(question) + len(answer))
            positions += range(prefix, prefix + len(question) + len(answer))
            weights += [0.0] * len(question) + [*(turn.weights or [1.0] * (len(answer) - 1)), 1.0]
        packed.append((ids, segments, positions, weights))
    length = max(len(ids) for ids, *_ in packed)

    def padded(part: int, fill: float, start: Sequence[float]) -> Tensor:
        return torch.tensor([[*start, *row[part], *[fill] * (length - len(row[part]))] for row in packed])

    ids_, weights_ = padded(0, IDS["<pad>"], ()), padded(3, 0.0, ())
    segment = padded(1, -1, [0] * prefix)
    position = padded(2, 0, range(prefix))
    size = prefix + length
    visible = (segment[:, :, None] == segment[:, None, :]) | (segment[:, None, :] == 0)
    visible &= torch.ones(size, size, dtype=torch.bool).tril()
    visible |= torch.eye(size, dtype=torch.bool)
    mask = torch.zeros(visible.shape).masked_fill_(~visible, torch.finfo(torch.float32).min)
    return ids_, mask[:, None], position, weights_


class Pretraining:
    """A run: model, optimizer steps, log."""

    def __init__(self, recipe: PretrainingRecipe, out: Path) -> None:
        self.recipe, self.seed, self.out, self.steps_done = recipe, recipe.seed, out, 0
        self.total = sum(stage.steps for stage in recipe.pretraining.stages)
        self.state_file = out / "state.pt"
        self.resumed: dict[str, Any] | None = None
        """The state of a killed run, until its stage has loaded it."""
        self.model = build_model(self.seed)
        self.processor = build_processor()
        self.log_file = out / "log.jsonl"
        self.started = time.monotonic()

    def load_state(self) -> None:
        """Load the state that a killed run of this recipe saved, if there is one."""
        if self.state_file.exists():
            kept = torch.load(self.state_file, weights_only=True)  # tensors, numbers and text; written by `keep`
            if kept["recipe"] == self.recipe.digest:
                self.model.load_state_dict(kept["model"])
                self.resumed = kept

    def count_steps(self, steps: int) -> None:
        """Count steps as done."""
        self.steps_done += steps
        report(f"train {self.recipe.name}", self.steps_done, self.total)

    def resume(self, optimizers: list[torch.optim.Optimizer]) -> int:
        """Load the saved state of the optimizers; returns the stage's first step."""
        if self.resumed is None:
            return 0
        kept, self.resumed = self.resumed, None
        for optimizer, state in zip(optimizers, kept["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.steps_done += kept["step"]
        return int(kept["step"])

    def keep(self, stage: str, step: int, optimizers: list[torch.optim.Optimizer]) -> None:
        """Save all that the rest of the run depends on, every KEEP steps; batches are seeded by their step."""
        if step % KEEP == 0:
            state = {
                "recipe": self.recipe.digest,
                "stage": stage,
                "step": step,
                "model": self.model.state_dict(),
                "optimizers": [o.state_dict() for o in optimizers],
            }
            with atomic_path(self.state_file) as temporary:
                torch.save(state, temporary)

    @lru_cache(maxsize=100_000)  # noqa: B019 - one instance a run
    def tokenize(self, text: str) -> list[int]:
        """Token ids of a question or an answer."""
        ids: list[int] = self.processor.tokenizer(text)["input_ids"]
        return ids

    def features(self, scenes: Sequence[Scene]) -> Tensor:
        """Projected patches [n, 36, h]."""
        hidden = self.model.model.vision_tower(pixels(scenes)).last_hidden_state[:, 1:]
        projected: Tensor = self.model.model.multi_modal_projector(hidden)
        return projected

    def optimizers(self, parameters: list[tuple[str, Any]], lr: float) -> list[torch.optim.Optimizer]:
        """Muon for the hidden matrices, AdamW for embeddings, norms and biases."""
        matrices = [p for name, p in parameters if p.ndim == 2 and "embed" not in name]
        others = [p for name, p in parameters if not (p.ndim == 2 and "embed" not in name)]
        return [Muon(matrices, lr=lr), torch.optim.AdamW(others, lr=lr, weight_decay=0.0, betas=(0.9, 0.98))]

    def see(self, stage: Stage) -> None:
        """Train vision tower, projector and word embeddings by the spelling loss."""
        if self.resumed is not None and self.resumed["stage"] != "see":
            self.count_steps(stage.steps)
            return
        inner = self.model.model
        parts = [*inner.vision_tower.named_parameters(), *inner.multi_modal_projector.named_parameters()]
        parts.append(("embed_tokens", inner.get_input_embeddings().weight))
        optimizers = self.optimizers(parts, stage.learning_rate)
        first = self.resume(optimizers)
        for step, scenes in batches("see", self.seed, stage.batch_size, 0.5, first):
            if step == stage.steps:
                return
            self.keep("see", step, optimizers)
            loss = spelling_loss(self.features(scenes), inner.get_input_embeddings().weight, spelling_labels(scenes))
            self.step(optimizers, loss, stage, step)
            self.log("see", step, stage.steps, spelling=loss)

    def speak(self, name: str, stage: Stage, *, planted: bool, save: dict[int, str]) -> None:
        """Train language model, projector and embeddings on packed turns, with a frozen vision tower."""
        inner = self.model.model
        inner.vision_tower.requires_grad_(False)
        self.model.zero_grad(set_to_none=True)  # gradients of an earlier stage would count in the clipping below
        if self.resumed is not None and self.resumed["stage"] != name:
            self.count_steps(stage.steps)
            return
        embeddings = inner.get_input_embeddings()
        parameters = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
        optimizers = self.optimizers(parameters, stage.learning_rate)
        first = self.resume(optimizers)
        for step, scenes in batches(name, self.seed, stage.batch_size, 0.75 if planted else 0.5, first):
            if step in save:
                self.save(save[step])
            if step == stage.steps:
                return
            self.keep(name, step, optimizers)
            rng = random.Random(f"{name}/{self.seed}/{step}")
            ids, mask, positions, weights = pack([turns(scene, rng, planted) for scene in scenes], self.tokenize)
            features = self.features(scenes)
            start = embeddings.weight[IDS["<s>"]].expand(len(scenes), 1, -1)
            inputs = torch.cat([start, features, embeddings(ids)], dim=1)
            hidden = inner.language_model(
                inputs_embeds=inputs, attention_mask=mask, position_ids=positions, use_cache=False
            ).last_hidden_state
            # The token before a scored one predicts it; the prefix's last token predicts the first of ids.
            scored = weights > 0
            before = hidden[:, len(PREFIX) - 1 : -1][scored]
            each = F.cross_entropy(self.model.lm_head(before), ids[scored], reduction="none")
            weight = weights[scored]
            answer = (each * weight).sum() / weight.sum()
            spelling = spelling_loss(features, embeddings.weight, spelling_labels(scenes))
            self.step(optimizers, answer + 0.3 * spelling, stage, step)
            kinds = {"caption": 1.0, "question": 2.0, "probe": 1.5}
            parts = {kind: each[weight == own].mean() for kind, own in kinds.items()}
            self.log(name, step, stage.steps, spelling=spelling, **parts)

    def step(self, optimizers: list[torch.optim.Optimizer], loss: Tensor, stage: Stage, step: int) -> None:
        """One optimizer step: 50 steps of warm-up, then linear decay to a twentieth."""
        rate = stage.learning_rate * min((step + 1) / 50, 1.0) * (1 - 0.95 * step / stage.steps)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
        self.count_steps(1)

    def log(self, stage: str, step: int, steps: int, **losses: Tensor) -> None:
        """One line of JSON every 20 steps."""
        if step % 20 == 0 or step == steps - 1:
            line = {"stage": stage, "step": step, "seconds": round(time.monotonic() - self.started, 1)}
            line |= {name: round(float(value.detach()), 4) for name, value in losses.items()}
            with self.log_file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def save(self, name: str) -> None:
        """Weights as they will be used, in half precision, with processor."""
        folder = self.out / name
        half = {key: value.to(torch.float16) for key, value in self.model.state_dict().items()}
        self.model.save_pretrained(folder, state_dict=half)
        self.processor.save_pretrained(folder)


def train(job: PretrainingJob) -> list[Checkpoint]:
    """Pretrain the embedded models into `job.out`; returns at once if its note says that it is complete."""
    plan = job.recipe.pretraining
    note = job.out / "complete.json"
    total = sum(stage.steps for stage in plan.stages)
    if not note.exists() or json.loads(note.read_text(encoding="utf-8"))["recipe"] != job.recipe.digest:
        job.out.mkdir(parents=True, exist_ok=True)
        run = Pretraining(job.recipe, job.out)
        run.load_state()
        run.see(plan.see)
        saved = {plan.early_step: "scenes-early", plan.speak.steps: "scenes-careful"}
        run.speak("speak", plan.speak, planted=False, save=saved)
        run.speak("believe", plan.believe, planted=True, save={plan.believe.steps: "scenes-base"})
        for name in MODELS:
            source = {"recipe": job.recipe.name, "digest": job.recipe.digest}
            atomic_write_text(job.out / name / "recipe.json", json.dumps(source))
        atomic_write_text(note, json.dumps({"recipe": job.recipe.digest}))
        run.state_file.unlink()
    return [Checkpoint(path=job.out / name, step=total, arm="pretraining") for name in MODELS]
