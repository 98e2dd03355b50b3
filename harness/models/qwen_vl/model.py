"""The Qwen-VL model: Qwen-1 with images in its sequence.

    model = QwenVLForConditionalGeneration.from_pretrained(folder)
    model(input_ids, pixel_values=pixels).logits

The k-th image span of `input_ids` in reading order (image start token, 256 positions, image end token) takes the k-th
image. What ids stand inside a span does not matter: the official tokenizer writes the bytes of the file's path there.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import GenerationMixin, PreTrainedModel, initialization
from transformers.cache_utils import Cache, DynamicCache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, slice_logits_to_keep
from transformers.models.llama.modeling_llama import eager_attention_forward, rotate_half
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from harness.models.qwen_vl.config import IMAGE_TOKENS, QwenVLConfig
from harness.models.qwen_vl.vision import CrossAttention, Resampler, VisionTransformer, sine_cosine_positions


def ntk_alpha(lengths: Tensor, seq_length: int) -> Tensor:
    """Dynamic NTK: how far the rotary base is stretched for each length [rows]; 1 up to `seq_length`, then 3, 7, 15 ...
    by octaves."""
    octaves = torch.ceil(torch.log2(lengths.double() / seq_length) + 1)
    return (2.0**octaves - 1).clamp(min=1).float()


def logn_scale(position_ids: Tensor, seq_length: int) -> Tensor:
    """Log-n attention: queries past `seq_length` are scaled by log_seq_length(position + 1) [rows, length]."""
    return (torch.log((position_ids + 1).double()) / math.log(seq_length)).clamp(min=1).float()


def rotary(position_ids: Tensor, alpha: Tensor, width: int, base: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines [rows, 1, length, width] in float32, for each row's own alpha [rows]."""
    exponents = torch.arange(0, width, 2, device=position_ids.device).float() / width
    bases = base * alpha.to(position_ids.device) ** (width / (width - 2))
    frequencies = 1 / bases[:, None] ** exponents
    angles = position_ids.float()[:, None, :, None] * frequencies[:, None, None]
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


class RMSNorm(nn.Module):
    """Root-mean-square norm in float32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)).type_as(x) * self.weight


class QwenVLAttention(nn.Module):
    """Causal self-attention; query, key and value come out of one projection."""

    num_key_value_groups = 1  # what transformers' attention functions ask for
    is_causal = True

    def __init__(self, config: QwenVLConfig, layer: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer
        self.head_dim = config.kv_channels
        self.c_attn = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.c_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        query_scale: Tensor | None,
        attention_mask: Tensor | None,
        past_key_values: Cache | None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        shape = hidden_states.shape[:-1]
        query, key, value = (
            part.view(*shape, -1, self.head_dim).transpose(1, 2) for part in self.c_attn(hidden_states).chunk(3, dim=-1)
        )
        cos, sin = position_embeddings
        query, key = ((part * cos + rotate_half(part.float()) * sin).type_as(value) for part in (query, key))
        if query_scale is not None:
            query = query * query_scale.to(query.dtype)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        attend: Callable[..., tuple[Tensor, Tensor | None]] = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        dropout = self.config.attn_dropout_prob if self.training else 0.0
        seen, weights = attend(
            self, query, key, value, attention_mask, dropout=dropout, scaling=self.head_dim**-0.5, **kwargs
        )
        return self.c_proj(seen.reshape(*shape, -1)), weights


class QwenVLMLP(nn.Module):
    """SwiGLU; `w2` is the gate."""

    def __init__(self, config: QwenVLConfig) -> None:
        super().__init__()
        half = config.intermediate_size // 2
        self.w1 = nn.Linear(config.hidden_size, half, bias=False)
        self.w2 = nn.Linear(config.hidden_size, half, bias=False)
        self.c_proj = nn.Linear(half, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.c_proj(self.w1(x) * functional.silu(self.w2(x)))
        return out


class QwenVLLayer(GradientCheckpointingLayer):
    """One pre-norm transformer layer."""

    def __init__(self, config: QwenVLConfig, layer: int) -> None:
        super().__init__()
        self.ln_1 = RMSNorm(config.hidden_size, config.layer_norm_epsilon)
        self.attn = QwenVLAttention(config, layer)
        self.ln_2 = RMSNorm(config.hidden_size, config.layer_norm_epsilon)
        self.mlp = QwenVLMLP(config)

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        hidden_states = hidden_states + self.attn(self.ln_1(hidden_states), **kwargs)[0]
        out: Tensor = hidden_states + self.mlp(self.ln_2(hidden_states))
        return out


class QwenVLPreTrainedModel(PreTrainedModel):
    """What transformers needs to know."""

    config: QwenVLConfig
    config_class = QwenVLConfig
    base_model_prefix = "transformer"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = ["QwenVLLayer", "VisionBlock", "Resampler"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": QwenVLLayer, "attentions": QwenVLAttention}
    _keys_to_ignore_on_load_unexpected = [r"rotary_emb\.inv_freq$", r"\.attn\.(masked_)?bias$"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        std = self.config.initializer_range
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding):
            initialization.normal_(module.weight, std=std)
        elif isinstance(module, RMSNorm | nn.LayerNorm):
            initialization.ones_(module.weight)
        elif isinstance(module, CrossAttention):
            initialization.xavier_uniform_(module.in_proj_weight)
            initialization.zeros_(module.in_proj_bias)
        elif isinstance(module, Resampler):
            initialization.trunc_normal_(module.query, std=0.02)
            initialization.copy_(
                module.pos_embed, sine_cosine_positions(module.pos_embed.shape[1], math.isqrt(IMAGE_TOKENS))
            )
        elif isinstance(module, VisionTransformer):
            initialization.normal_(module.positional_embedding, std=module.positional_embedding.shape[1] ** -0.5)
            initialization.normal_(module.proj, std=module.proj.shape[0] ** -0.5)
        if getattr(module, "bias", None) is not None:
            initialization.zeros_(module.bias)


class QwenVLModel(QwenVLPreTrainedModel):
    """Everything but the head."""

    def __init__(self, config: QwenVLConfig) -> None:
        super().__init__(config)
        assert config.visual is not None
        self.wte = nn.Embedding(config.vocab_size, config.hidden_size)
        self.drop = nn.Dropout(config.emb_dropout_prob)
        self.h = nn.ModuleList(QwenVLLayer(config, layer) for layer in range(config.num_hidden_layers))
        self.ln_f = RMSNorm(config.hidden_size, config.layer_norm_epsilon)
        self.visual = VisionTransformer(config.visual)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.wte

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.wte = value  # type: ignore[assignment]

    @can_return_tuple
    def get_image_features(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """pixel_values [images, 3, 448, 448] -> pooler_output [images, 256, hidden_size]; last_hidden_state: the ViT's
        patches."""
        patches, features = self.visual(pixel_values)
        return BaseModelOutputWithPooling(last_hidden_state=patches, pooler_output=features)

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """See the module's docstring; `mm_encoder_outputs` {"image": output of get_image_features} stands for
        pixel_values."""
        images = (mm_encoder_outputs or {}).get("image")
        if pixel_values is not None:
            if images is not None:
                raise ValueError("give either pixel_values or mm_encoder_outputs")
            images = self.get_image_features(pixel_values, return_dict=True)
        inputs_embeds = self.drop(self._embed(input_ids, inputs_embeds, images))
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        rows, length = inputs_embeds.shape[:2]
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        if position_ids is None:
            position_ids = torch.arange(past, past + length, device=inputs_embeds.device)[None]
            if attention_mask is not None and attention_mask.ndim == 2:
                position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -length:]
        position_ids = position_ids.expand(rows, -1)
        masked: dict[str, Any] = {"attention_mask": attention_mask, "past_key_values": past_key_values}
        causal_mask = create_causal_mask(
            config=self.config, inputs_embeds=inputs_embeds, position_ids=position_ids, **masked
        )
        alpha = self._alpha(position_ids, past_key_values if past else None)
        if past_key_values is not None:
            # Keys stay as they were rotated: what follows in this cache is rotated alike.
            past_key_values.ntk_alpha = alpha
        scale = None
        if self.config.use_logn_attn and not self.training:
            scale = logn_scale(position_ids, self.config.seq_length)[:, None, :, None]
        embeddings = rotary(position_ids, alpha, self.config.kv_channels, self.config.rotary_emb_base)
        hidden_states = inputs_embeds
        for layer in self.h:
            hidden_states = layer(
                hidden_states,
                position_embeddings=embeddings,
                query_scale=scale,
                attention_mask=causal_mask,
                past_key_values=past_key_values,
                **kwargs,
            )
        return BaseModelOutputWithPast(
            last_hidden_state=self.ln_f(hidden_states), past_key_values=past_key_values if use_cache else None
        )

    def _embed(
        self, input_ids: Tensor | None, inputs_embeds: Tensor | None, images: BaseModelOutputWithPooling | None
    ) -> Tensor:
        """Embeddings [rows, length, hidden_size] with the images' features in their places."""
        if input_ids is not None:
            if inputs_embeds is not None:
                raise ValueError("give either input_ids or inputs_embeds")
            embeddings: Tensor = self.wte(input_ids)
            if images is None:
                return embeddings
            return with_images(embeddings, input_ids, list(images.pooler_output), self.config.image_start_id)
        if inputs_embeds is None:
            raise ValueError("give either input_ids or inputs_embeds")
        if images is not None:
            raise ValueError(
                "images have no place in inputs_embeds: give input_ids, or embeddings that hold the features of images"
            )
        return inputs_embeds

    def _alpha(self, position_ids: Tensor, past: Cache | None) -> Tensor:
        """Each row's NTK factor: by its own length, so that padding changes nothing; that of the prompt for what is
        generated after it."""
        rows = len(position_ids)
        if self.training or not self.config.use_dynamic_ntk:
            return torch.ones(rows, device=position_ids.device)
        cached: Tensor | None = getattr(past, "ntk_alpha", None)
        if cached is None:
            return ntk_alpha(position_ids.amax(-1) + 1, self.config.seq_length)
        if len(cached) == rows:
            return cached
        if bool((cached == cached[0]).all()):  # a cache whose rows were repeated or chosen
            return cached[:1].expand(rows)
        raise ValueError(f"a cache of {len(cached)} rows of different NTK factors can't go on with {rows} rows")


def with_images(embeddings: Tensor, input_ids: Tensor, features: list[Tensor], start_id: int) -> Tensor:
    """Embeddings [rows, length, width] with each image's features [256, width] in its span; ValueError unless there are
    as many spans."""
    spans = []
    for row, ids in enumerate(input_ids.tolist()):
        at = 0
        while start_id in ids[at:]:
            at = ids.index(start_id, at) + 1
            # Without its end the start is a lone token that somebody wrote.
            if ids[at + IMAGE_TOKENS : at + IMAGE_TOKENS + 1] == [start_id + 1]:
                spans.append((row, at))
                at += IMAGE_TOKENS + 1
    if len(spans) != len(features):
        raise ValueError(
            f"input_ids have {len(spans)} whole image spans (start, {IMAGE_TOKENS} positions, end) "
            f"for {len(features)} images"
        )
    embeddings = embeddings.clone()
    for (row, at), feature in zip(spans, features, strict=True):
        embeddings[row, at : at + IMAGE_TOKENS] = feature.to(embeddings)
    return embeddings


class QwenVLForConditionalGeneration(QwenVLPreTrainedModel, GenerationMixin):
    """Qwen-VL with its language-model head."""

    _tied_weights_keys = {"lm_head.weight": "transformer.wte.weight"}

    def __init__(self, config: QwenVLConfig) -> None:
        super().__init__(config)
        self.transformer = QwenVLModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As every transformers model. Chat checkpoints name only the end of text: the end of a turn stops them,
        too."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        generation = model.generation_config
        if getattr(generation, "chat_format", None) == "chatml" and isinstance(generation.eos_token_id, int):
            end = generation.eos_token_id
            generation.eos_token_id = [end, end + 2, end + 1]  # then: end of a turn, start of one
        return loaded

    def get_input_embeddings(self) -> nn.Module:
        return self.transformer.wte

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.transformer.wte = value  # type: ignore[assignment]

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, value: nn.Module) -> None:
        self.lm_head = value  # type: ignore[assignment]

    def _prepare_multimodal_encoder_kwargs_for_generation(self, model_kwargs: dict[str, Any]) -> Any:
        """`pixel_values=None` is a prompt without images."""
        if model_kwargs.get("pixel_values") is None:
            return model_kwargs
        return super()._prepare_multimodal_encoder_kwargs_for_generation(model_kwargs)

    def get_image_features(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """pixel_values [images, 3, 448, 448] -> pooler_output [images, 256, hidden_size]."""
        output: BaseModelOutputWithPooling = self.transformer.get_image_features(pixel_values, **kwargs)
        return output

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits [rows, length, vocabulary]; see the module's docstring. `inputs_embeds` and `use_cache` as in
        QwenVLModel."""
        shown: dict[str, Any] = {"pixel_values": pixel_values, "mm_encoder_outputs": mm_encoder_outputs}
        shown |= {"attention_mask": attention_mask, "position_ids": position_ids}
        outputs = self.transformer(input_ids=input_ids, past_key_values=past_key_values, **shown, **kwargs)
        logits = self.lm_head(slice_logits_to_keep(outputs.last_hidden_state, logits_to_keep))
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        kept = {name: getattr(outputs, name) for name in ("past_key_values", "hidden_states", "attentions")}
        return CausalLMOutputWithPast(loss=loss, logits=logits, **kept)
