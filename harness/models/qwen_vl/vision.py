"""The image encoder of Qwen-VL: a ViT over 14-pixel patches, then cross-attention of 256 learned queries."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_layers import GradientCheckpointingLayer

from harness.models.qwen_vl.config import IMAGE_TOKENS

EPS = 1e-6


def resized_positions(positions: Tensor, count: int) -> Tensor:
    """Position embeddings of a square grid [n, width], bicubically for a grid of `count` cells [count, width]."""
    if len(positions) == count:
        return positions
    old, new = math.isqrt(len(positions)), math.isqrt(count)
    grid = positions.float().view(1, old, old, -1).permute(0, 3, 1, 2)
    grid = functional.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    return grid.permute(0, 2, 3, 1).flatten(0, 2).to(positions.dtype)


def sine_cosine_positions(width: int, side: int) -> Tensor:
    """[side * side, width]: the first half tells the column, the second the row, each as sines then cosines."""
    omega = 1 / 10000 ** (torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    angles = torch.outer(torch.arange(side, dtype=torch.float64), omega)
    line = torch.cat([angles.sin(), angles.cos()], dim=1)
    columns, rows = line[None].expand(side, side, -1), line[:, None].expand(side, side, -1)
    return torch.cat([columns, rows], dim=2).flatten(0, 1).float()


class VisionAttention(nn.Module):
    """Self-attention over patches; query, key and value of one head lie side by side in `in_proj`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        query, key, value = self.in_proj(x).view(batch, length, self.heads, -1).transpose(1, 2).chunk(3, dim=-1)
        seen = functional.scaled_dot_product_attention(query, key, value)
        projected: Tensor = self.out_proj(seen.transpose(1, 2).reshape(batch, length, width))
        return projected


class VisionMLP(nn.Module):
    """Two layers with an exact GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, hidden)
        self.c_proj = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.c_proj(functional.gelu(self.c_fc(x)))
        return out


class VisionBlock(GradientCheckpointingLayer):
    """One pre-norm transformer layer."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width, eps=EPS)
        self.ln_2 = nn.LayerNorm(width, eps=EPS)
        self.attn = VisionAttention(width, heads)
        self.mlp = VisionMLP(width, int(width * mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class VisionLayers(nn.Module):
    """The ViT's layers."""

    def __init__(self, width: int, layers: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(VisionBlock(width, heads, mlp_ratio) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.resblocks:
            x = block(x)
        return x


class CrossAttention(nn.Module):
    """torch's MultiheadAttention by its parameters' names; it calls its own output layer, so that offloading and
    quantisation see it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        split = [
            functional.linear(part, weight, bias).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part, weight, bias in zip((query, key, value), weights, biases, strict=True)
        ]
        seen = functional.scaled_dot_product_attention(*split)
        projected: Tensor = self.out_proj(seen.transpose(1, 2).flatten(2))
        return projected


class Resampler(nn.Module):
    """Learned queries read the patches: [images, patches, patch width] -> [images, 256, width]."""

    def __init__(self, width: int, patch_width: int) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.empty(IMAGE_TOKENS, width), requires_grad=False)
        self.query = nn.Parameter(torch.empty(IMAGE_TOKENS, width))
        self.kv_proj = nn.Linear(patch_width, width, bias=False) if patch_width != width else nn.Identity()
        self.attn = CrossAttention(width, width // 128)
        self.ln_q = nn.LayerNorm(width, eps=EPS)
        self.ln_kv = nn.LayerNorm(width, eps=EPS)

    def forward(self, patches: Tensor) -> Tensor:
        value = self.ln_kv(self.kv_proj(patches))
        key = value + resized_positions(self.pos_embed, value.shape[1])
        query = (self.ln_q(self.query) + self.pos_embed).expand(len(value), -1, -1)
        read: Tensor = self.attn(query, key, value)
        return read


class VisionTransformer(nn.Module):
    """pixel_values [images, 3, height, width] -> patches [images, patches, width] and features [images, 256,
    output_dim]."""

    def __init__(self, visual: dict[str, Any]) -> None:
        super().__init__()
        width, out, patch = visual["width"], visual["output_dim"], visual["patch_size"]
        self.conv1 = nn.Conv2d(3, width, kernel_size=patch, stride=patch, bias=False)
        self.positional_embedding = nn.Parameter(torch.empty(256, width))
        self.ln_pre = nn.LayerNorm(width, eps=EPS)
        self.transformer = VisionLayers(width, visual["layers"], visual["heads"], visual["mlp_ratio"])
        self.attn_pool = Resampler(out, width)
        self.ln_post = nn.LayerNorm(out, eps=EPS)
        self.proj = nn.Parameter(torch.empty(out, out))

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        patches = self.conv1(pixel_values.to(self.conv1.weight.dtype)).flatten(2).transpose(1, 2)
        patches = self.transformer(
            self.ln_pre(patches + resized_positions(self.positional_embedding, patches.shape[1]))
        )
        return patches, self.ln_post(self.attn_pool(patches)) @ self.proj
