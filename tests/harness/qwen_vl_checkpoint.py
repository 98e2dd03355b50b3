"""A tiny random checkpoint with the files of Qwen/Qwen-VL-Chat, made here."""

import base64
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import tiktoken
import torch
from safetensors.torch import save_file

from harness.models.qwen_vl.config import QwenVLConfig
from harness.models.qwen_vl.model import QwenVLForConditionalGeneration
from harness.models.qwen_vl.tokenizer import SPECIAL, WORDS

TEXT = (
    "the cat in the hat sat on the mat. Is there a red car? Yes, there is a red car in the image. 123 éà 图中有一只猫"
)


def trained_ranks(count: int) -> dict[bytes, int]:
    """Byte-pair ranks as tiktoken has them: all bytes (not in their order), then `count` merges learned from TEXT."""
    ranks = {bytes([(byte * 7 + 3) % 256]): byte for byte in range(256)}
    words = [[bytes([byte]) for byte in word.encode()] for word in tiktoken_pieces(TEXT)]
    for _ in range(count):
        pairs: dict[tuple[bytes, bytes], int] = {}
        for word in words:
            for pair in pairwise(word):
                pairs[pair] = pairs.get(pair, 0) + 1
        if not pairs:
            break
        left, right = max(sorted(pairs), key=lambda pair: pairs[pair])
        ranks.setdefault(left + right, len(ranks))
        for word in words:
            at = 0
            while at < len(word) - 1:
                if (word[at], word[at + 1]) == (left, right):
                    word[at : at + 2] = [left + right]
                at += 1
    return ranks


def tiktoken_pieces(text: str) -> list[str]:
    import regex  # type: ignore[import-untyped]

    found: list[str] = regex.findall(WORDS, text)
    return found


RANKS = trained_ranks(64)
END = len(RANKS)
START = END + len(SPECIAL) - 3
OFFICIAL = tiktoken.Encoding(
    "qwen", pat_str=WORDS, mergeable_ranks=RANKS, special_tokens={t: END + i for i, t in enumerate(SPECIAL)}
)


def config(**changes: Any) -> dict[str, Any]:
    visual = {"heads": 2, "image_size": 448, "image_start_id": START, "layers": 2, "mlp_ratio": 4.9231}
    visual |= {"output_dim": 128, "patch_size": 14, "width": 32}
    code = {"AutoConfig": "configuration_qwen.QWenConfig", "AutoModelForCausalLM": "modeling_qwen.QWenLMHeadModel"}
    found: dict[str, Any] = {"architectures": ["QWenLMHeadModel"], "auto_map": code, "model_type": "qwen"}
    found |= {"hidden_size": 128, "intermediate_size": 256, "kv_channels": 64, "num_attention_heads": 2}
    found |= {"num_hidden_layers": 2, "seq_length": 2048, "bf16": False, "torch_dtype": "float32", "vocab_size": 640}
    return found | {"visual": visual} | changes


def write(folder: Path) -> None:
    """Without its code, as we load it."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config()))
    (folder / "qwen.tiktoken").write_bytes(
        b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in RANKS.items())
    )
    code = {"AutoTokenizer": ["tokenization_qwen.T", None]}
    tokenizer = {"model_max_length": 8192, "tokenizer_class": "QWenTokenizer", "auto_map": code}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    generation = {"chat_format": "chatml", "eos_token_id": END, "pad_token_id": END}
    generation |= {"do_sample": True, "top_k": 0, "top_p": 0.3}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    torch.manual_seed(0)
    model = QwenVLForConditionalGeneration(QwenVLConfig(**config()))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "pos" not in name:
                parameter.mul_(4)
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
