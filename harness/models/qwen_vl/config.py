"""The configuration of Qwen-VL: the original config.json is read as it is.

QwenVLConfig.from_pretrained("Qwen/Qwen-VL-Chat").visual["image_start_id"]      # 151857
"""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

IMAGE_TOKENS = 256
"""Positions an image takes between its start and end token: the resampler's queries."""


@strict
class QwenVLConfig(PreTrainedConfig):
    """Defaults are those of Qwen-VL-Chat. Keys of the original that have no meaning here are kept as attributes and
    saved again."""

    model_type = "qwen"
    attribute_map = {"num_key_value_heads": "num_attention_heads", "head_dim": "kv_channels"}

    vocab_size: int = 151936
    hidden_size: int = 4096
    intermediate_size: int = 22016
    """Of both halves of SwiGLU together."""
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    kv_channels: int = 128
    """Width of a head."""
    seq_length: int = 2048
    """Length the model was trained at: beyond it dynamic NTK and log-n attention act."""
    max_position_embeddings: int = 8192
    layer_norm_epsilon: float = 1e-6
    initializer_range: float = 0.02
    rotary_emb_base: float | int = 10000
    use_dynamic_ntk: bool = True
    use_logn_attn: bool = True
    attn_dropout_prob: float = 0.0
    emb_dropout_prob: float = 0.0
    no_bias: bool = True
    """Of the output projections; query, key and value always have one."""
    rotary_pct: float = 1.0
    scale_attn_weights: bool = True
    use_cache: bool = True
    tie_word_embeddings: bool = False
    visual: dict[str, Any] | None = None
    """The image encoder: image_size, patch_size, width, layers, heads, mlp_ratio, output_dim, image_start_id."""

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.visual is None:
            self.visual = {"heads": 16, "image_size": 448, "image_start_id": 151857, "layers": 48}
            self.visual |= {"mlp_ratio": 4.9231, "output_dim": 4096, "patch_size": 14, "width": 1664}
        if self.kv_channels * self.num_attention_heads != self.hidden_size:
            raise ValueError(
                f"{self.num_attention_heads} heads of {self.kv_channels} don't make hidden_size {self.hidden_size}"
            )
        if self.rotary_pct != 1.0 or not self.no_bias or not self.scale_attn_weights:
            raise ValueError(
                "only rotary_pct 1.0, no_bias true and scale_attn_weights true are known, "
                "as in every published checkpoint"
            )
        if self.visual["output_dim"] != self.hidden_size:
            raise ValueError(f"visual output_dim {self.visual['output_dim']} must be hidden_size {self.hidden_size}")

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """ValueError for a Qwen that sees nothing: its model_type is the same."""
        if config_dict.get("visual") is None and "QWenLMHeadModel" in (config_dict.get("architectures") or ()):
            raise ValueError("config.json has no `visual`: a Qwen of text alone, no Qwen-VL")
        return super().from_dict(config_dict, **kwargs)

    @property
    def image_start_id(self) -> int:
        """The token before an image's positions; the next id ends them."""
        assert self.visual is not None
        return int(self.visual["image_start_id"])

    @property
    def image_token_id(self) -> int:
        """The token that fills an image's positions."""
        return self.image_start_id + 2
