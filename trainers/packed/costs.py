"""What a step of DPO takes on paper: floating-point operations and bytes of the language model, packed or not.

    python -m trainers.packed.costs           # the table of docs/performance.md

A matrix product of [a, b] by [b, c] is 2abc operations; attention is counted over all pairs of queries and keys of a
segment, as torch's counter does. Norms, activations and the vision tower are left out. `tests/trainers/test_costs.py`
holds the operations to those that a step really does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from trainers.packed.head import TILE

HALF, SINGLE = 2, 4
"""Bytes of a number in half and single precision."""
ADAM: Final = 2 * SINGLE
"""Bytes of Adam's state for a trained weight."""
FOUR_BITS: Final = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Bytes of a weight in NF4 with double quantization: blocks of 64 with a byte each, 256 of which share 4 bytes."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A decoder's matrices."""

    width: int
    layers: int
    heads: int
    key_heads: int
    head_width: int
    inner: int
    """Of the gated MLP."""
    vocabulary: int

    @property
    def attention_weights(self) -> int:
        """Of a layer."""
        return self.width * self.head_width * (2 * self.heads + 2 * self.key_heads)

    @property
    def mlp_weights(self) -> int:
        """Of a layer."""
        return 3 * self.width * self.inner

    @property
    def weights(self) -> int:
        """Of all matrices, embedding and head among them."""
        return self.layers * (self.attention_weights + self.mlp_weights) + 2 * self.width * self.vocabulary

    def adapter_weights(self, rank: int) -> int:
        """Of LoRA on all matrices of all layers."""
        sides = 4 * self.width + self.head_width * (2 * self.heads + 2 * self.key_heads)
        return self.layers * rank * (sides + 3 * (self.width + self.inner))


MODELS: Final = {
    "LLaVA-1.5-7B": Shape(width=4096, layers=32, heads=32, key_heads=32, head_width=128, inner=11008, vocabulary=32064),
    "Qwen2.5-VL-7B": Shape(
        width=3584, layers=28, heads=28, key_heads=4, head_width=128, inner=18944, vocabulary=152064
    ),
    "Qwen2.5-VL-32B": Shape(
        width=5120, layers=64, heads=40, key_heads=8, head_width=128, inner=27648, vocabulary=152064
    ),
    "Qwen2.5-VL-72B": Shape(
        width=8192, layers=80, heads=64, key_heads=8, head_width=128, inner=29568, vocabulary=152064
    ),
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """A prompt of P tokens, image tokens among them, and the tokens of each answer to it."""

    prompt: int
    answers: Sequence[int]

    @property
    def tokens(self) -> int:
        """Read in a packed row."""
        return self.prompt - 1 + sum(self.answers)

    @property
    def met(self) -> int:
        """Pairs of a query and a key in the segments: the prompt with the first answer, then each other answer."""
        shared = self.prompt - 1
        first, *others = (shared + length for length in self.answers)
        return first * first + sum((keys - shared) * keys for keys in others)

    @property
    def met_at_last(self) -> int:
        """The same in the last layer, where answers alone are queries."""
        return sum(length * (self.prompt - 1 + length) for length in self.answers)


def packed_flops(shape: Shape, row: Row, rank: int, *, checkpointing: bool) -> int:
    """Operations of a step over a packed row, loss and gradients of adapters (`rank`; 0: of all weights).

    The last layer's MLP and attention are computed for answers alone; with checkpointing the others are computed twice.
    """
    scored = sum(row.answers)
    attend = 4 * shape.heads * shape.head_width
    linear = 2 * row.tokens * (shape.attention_weights + shape.mlp_weights) * (shape.layers - 1)
    last = 2 * row.tokens * shape.attention_weights + 2 * scored * shape.mlp_weights
    met, met_last = attend * row.met * (shape.layers - 1), attend * row.met_at_last
    adapters = 2 * row.tokens * shape.adapter_weights(rank)
    head = 2 * scored * shape.width * shape.vocabulary
    again = linear + met + adapters if checkpointing else 0
    # Gradients by inputs are as much as the product itself; those by weights once more, of what is trained.
    by_weights = 0 if rank else linear + last
    heads = 2 * head if rank else 4 * head
    return 2 * (linear + last) + by_weights + 7 * (met + met_last) // 2 + 3 * adapters + heads + again


def plain_flops(shape: Shape, row: Row, rank: int, *, checkpointing: bool) -> int:
    """The same for TRL: of all pairs both answers, each with its prompt, by policy and reference."""
    pairs = [(one, other) for place, one in enumerate(row.answers) for other in row.answers[place + 1 :]]
    total = 0
    for answer in (length for pair in pairs for length in pair):
        tokens = row.prompt + answer
        linear = 2 * tokens * (shape.attention_weights + shape.mlp_weights) * shape.layers
        met = 4 * shape.heads * shape.head_width * tokens * tokens * shape.layers
        adapters = 2 * tokens * shape.adapter_weights(rank)
        head = 2 * answer * shape.width * shape.vocabulary
        again = linear + met + adapters if checkpointing else 0
        by_weights = 0 if rank else linear + head
        total += 3 * linear + by_weights + 9 * met // 2 + 3 * adapters + 4 * head + again
    return total


def weight_bytes(shape: Shape, rank: int, *, four_bits: bool = False, processes: int = 1) -> float:
    """Bytes a process has of weights, gradients and Adam's state, sharded over `processes`.

    Adapters and whole models that are trained are in single precision, a frozen base in half precision or four bits,
    head and embedding never in four bits.
    """
    trained = shape.adapter_weights(rank) if rank else shape.weights
    held = trained * (SINGLE + SINGLE + ADAM)
    if not rank:
        return held / processes
    ends = 2 * shape.width * shape.vocabulary
    return (held + (shape.weights - ends) * (FOUR_BITS if four_bits else HALF) + ends * HALF) / processes


def activation_bytes(shape: Shape, row: Row) -> float:
    """Bytes of activations in a packed step with checkpointing, in half precision, at most about.

    Each layer's input, one layer's own activations, the head's tiles (logits and their shares) and the gradients of
    log-probabilities by hidden states.
    """
    inputs = shape.layers * row.tokens * shape.width
    layer = row.tokens * (
        6 * shape.width + shape.head_width * (2 * shape.heads + 2 * shape.key_heads) + 4 * shape.inner
    )
    return HALF * (inputs + layer) + SINGLE * (2 * TILE + sum(row.answers) * shape.width)


def gathered_bytes(shape: Shape) -> float:
    """Bytes of weights that FSDP2 has gathered at a time at most, in half precision: two layers, embedding and head."""
    return HALF * (2 * (shape.attention_weights + shape.mlp_weights) + 2 * shape.width * shape.vocabulary)


def paper_table() -> list[str]:
    """The table of docs/performance.md, in markdown lines."""
    rows = []
    for name, shape in MODELS.items():
        image = 576 if "LLaVA" in name else 1000
        pair, group = Row(prompt=image + 60, answers=[80] * 2), Row(prompt=image + 60, answers=[80] * 4)
        cells = [name]
        for row in (pair, group):
            ours, theirs = (count(shape, row, 64, checkpointing=True) / 1e12 for count in (packed_flops, plain_flops))
            cells.append(f"{ours:.0f} ({theirs / ours:.1f})")
        weights = (
            weight_bytes(shape, 64),
            weight_bytes(shape, 64, four_bits=True),
            weight_bytes(shape, 64, processes=8),
            weight_bytes(shape, 0, processes=8),
            gathered_bytes(shape),
            activation_bytes(shape, group),
        )
        rows.append((*cells, *(f"{size / 2**30:.1f}" for size in weights)))
    head = (
        "",
        "TFLOP, 1 pair",
        "6 pairs of 4 answers",
        "LoRA",
        "4-bit",
        "LoRA / 8",
        "full / 8",
        "gathered",
        "activations",
    )
    return ["| " + " | ".join(cells) + " |" for cells in (head, (":--", *["--:"] * 8), *rows)]


if __name__ == "__main__":
    print("\n".join(paper_table()))
