r"""Qwen's tokenizer from the checkpoint's `qwen.tiktoken`, on the Rust tokenizers library.

    tokenizer = QwenVLTokenizer.from_pretrained(folder)
    tokenizer("Picture 1: <img>cat.png</img>\nWhat is this?")["input_ids"]

An image's path becomes a span of 256 ids between the image tags: the path's UTF-8 bytes as ids, then `<imgpad>`. Ids
equal those of the official tokenizer, whose merges are any two neighbours that join to a known token, the lowest rank
first.
"""

import base64
import re
import unicodedata
from pathlib import Path
from typing import Any, Final

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import BatchEncoding
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.tokenization_utils_tokenizers import TokenizersBackend

from harness.models.qwen_vl.config import IMAGE_TOKENS

WORDS: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Pieces no token reaches across; a fact of the checkpoint."""

END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
IMAGE_START, IMAGE_END, IMAGE_PAD = "<img>", "</img>", "<imgpad>"
SPECIAL: Final = (
    *(END_OF_TEXT, TURN_START, TURN_END),
    *(f"<|extra_{n}|>" for n in range(205)),
    *("<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>"),
    *(IMAGE_START, IMAGE_END, IMAGE_PAD),
)
"""In the order of their ids, which follow the ranks."""

CHAT_TEMPLATE: Final = (
    "{%- set images = namespace(count=0) -%}"
    "{%- if messages[0]['role'] != 'system' -%}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{%- endif -%}"
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{%- if message['content'] is string -%}{{ message['content'] }}"
    "{%- else -%}{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' -%}{%- set images.count = images.count + 1 -%}"
    "{{ 'Picture ' ~ images.count ~ ': <img><imgpad></img>\n' }}"
    "{%- elif part['type'] == 'text' -%}{{ part['text'] }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{{ '<|im_end|>' }}{%- if not loop.last -%}{{ '\n' }}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '\n<|im_start|>assistant\n' }}{%- endif -%}"
)

_SPAN = re.compile(f"{IMAGE_START}(?:((?:{IMAGE_PAD})+)|((?:(?!{IMAGE_START}|{IMAGE_PAD}).)*?)){IMAGE_END}", re.DOTALL)
"""An image as pads alone, or by its path."""


def from_ranks(path: Path) -> Tokenizer:
    """The Rust tokenizer of a file of ranks (a line: base64 token, rank); ValueError where it is none."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            encoded, rank_of_it = line.split()
            ranks[base64.b64decode(encoded, validate=True)] = int(rank_of_it)
        except ValueError:
            raise ValueError(f"{path}: line {number} is no base64 token with its rank") from None
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise ValueError(f"{path}: ranks must be 0 to {len(ranks) - 1}")
    letters = bytes_to_unicode()  # tokenizers writes a byte as a printable letter
    merges = []
    for token, rank in ranks.items():
        splits = ((token[:at], token[at:]) for at in range(1, len(token)))
        merges += [
            (rank, ranks[left], ranks[right], left, right) for left, right in splits if left in ranks and right in ranks
        ]

    def written(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    vocab = {written(token): rank for token, rank in ranks.items()}
    pairs = [(written(left), written(right)) for *_, left, right in sorted(merges)]
    tokenizer = Tokenizer(models.BPE(vocab, pairs, ignore_merges=True))  # a piece that is a token is that token
    tokenizer.normalizer = normalizers.NFC()
    bytes_as_letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    words = pre_tokenizers.Split(Regex(WORDS), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, bytes_as_letters])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=True) for token in SPECIAL])
    return tokenizer


class QwenVLTokenizer(TokenizersBackend):
    """See the module's docstring. Special tokens in a text are read as such, as the official tokenizer does."""

    vocab_files_names = {"vocab_file": "qwen.tiktoken", "tokenizer_file": "tokenizer.json"}
    model_input_names = ["input_ids", "attention_mask"]
    padding_side = "left"

    def __init__(
        self,
        vocab_file: str | None = None,
        tokenizer_file: str | None = None,
        tokenizer_object: Tokenizer | None = None,
        **kwargs: Any,
    ) -> None:
        if tokenizer_object is None and not (tokenizer_file and Path(tokenizer_file).is_file()):
            if not vocab_file:
                raise ValueError("neither qwen.tiktoken nor tokenizer.json is there")
            tokenizer_object = from_ranks(Path(vocab_file))
        for name, token in {"eos_token": TURN_END, "pad_token": END_OF_TEXT}.items():
            kwargs[name] = kwargs.get(name) or token
        kwargs["clean_up_tokenization_spaces"] = False
        kwargs.pop("auto_map", None)  # remote code, which we stand for
        kwargs["chat_template"] = kwargs.get("chat_template") or CHAT_TEMPLATE
        super().__init__(tokenizer_file=tokenizer_file, tokenizer_object=tokenizer_object, **kwargs)
        self.eod_id, self.img_start_id, self.img_end_id, self.img_pad_id = self.convert_tokens_to_ids(
            [END_OF_TEXT, IMAGE_START, IMAGE_END, IMAGE_PAD]
        )

    @classmethod
    def convert_to_native_format(cls, trust_remote_code: bool = False, **kwargs: Any) -> dict[str, Any]:
        """Files as they are: `__init__` reads them."""
        return kwargs

    def _encode_plus(
        self, text: Any, text_pair: Any = None, *, return_tensors: Any = None, **kwargs: Any
    ) -> BatchEncoding:
        batched = isinstance(text, list | tuple) and not (
            kwargs.get("is_split_into_words") and all(isinstance(word, str) for word in text)
        )
        paths: list[list[bytes]] = [[] for _ in text] if batched else [[]]  # a row's, in reading order
        given = list(text) if batched else [text]
        pairs = [None] * len(given) if text_pair is None else list(text_pair) if batched else [text_pair]
        given = [self._pad_images(part, own) for part, own in zip(given, paths, strict=True)]
        pairs = [self._pad_images(part, own) for part, own in zip(pairs, paths, strict=True)]
        if not any(paths):
            return super()._encode_plus(text, text_pair, return_tensors=return_tensors, **kwargs)
        second = None if text_pair is None else pairs if batched else pairs[0]
        encoded = super()._encode_plus(given if batched else given[0], second, return_tensors=None, **kwargs)
        ids = encoded["input_ids"]
        single = bool(ids) and isinstance(ids[0], int)
        rows = [ids] if single else ids
        samples = encoded.get("overflow_to_sample_mapping", range(len(rows)))
        left = self.truncation_side == "left" and kwargs.get("max_length") is not None
        for row, sample in zip(rows, samples, strict=True):
            self._write_paths(row, paths[sample], from_the_end=left)
        if return_tensors is not None and single:
            encoded = BatchEncoding({name: [values] for name, values in encoded.items()}, encoded.encodings)
        return encoded if return_tensors is None else encoded.convert_to_tensors(return_tensors)

    def _pad_images(self, part: Any, paths: list[bytes]) -> Any:
        """A text with 256 pads for each image's path; `paths` gets the paths, and an empty one for an image that has
        its pads already."""
        if isinstance(part, str):
            return _SPAN.sub(lambda found: self._pad_image(found, paths), part)
        return [self._pad_images(inner, paths) for inner in part] if isinstance(part, list | tuple) else part

    def _pad_image(self, found: "re.Match[str]", paths: list[bytes]) -> str:
        if found[1] is not None:
            paths.append(b"")
            return found[0]
        written = unicodedata.normalize("NFC", found[2]).encode()
        if len(written) > IMAGE_TOKENS:
            raise ValueError(
                f"the path of an image takes {len(written)} bytes; {IMAGE_TOKENS} have room: {found[2][:60]}..."
            )
        paths.append(written)
        return IMAGE_START + IMAGE_PAD * IMAGE_TOKENS + IMAGE_END

    def _write_paths(self, row: list[int], paths: list[bytes], *, from_the_end: bool) -> None:
        """Each path's bytes as ids in its span; where the text was truncated, spans are missing at one end."""
        start = [self.img_start_id, self.img_pad_id]
        starts = [at + 1 for at in range(len(row)) if row[at : at + 2] == start]
        kept = paths[len(paths) - len(starts) :] if from_the_end else paths
        for at, path in zip(starts, kept, strict=False):
            inside = path[: len(row) - at]
            row[at : at + len(inside)] = list(inside)

    def _decode(self, token_ids: Any, skip_special_tokens: bool = False, **kwargs: Any) -> str:
        ids = [token_ids] if isinstance(token_ids, int) else list(token_ids)
        out: list[int] = []
        at = 0
        while at < len(ids):
            start = at
            at = ids.index(self.img_start_id, start) if self.img_start_id in ids[start:] else len(ids)
            out += ids[start:at]
            end = at + IMAGE_TOKENS + 1
            if ids[end : end + 1] == [self.img_end_id]:
                inner = ids[at + 1 : end]
                path = inner[: inner.index(self.img_pad_id)] if self.img_pad_id in inner else inner
                if all(byte < 256 for byte in path):
                    text = bytes(path).decode("utf-8", errors="replace")
                    written = self._tokenizer.encode(text, add_special_tokens=False).ids
                    out += [self.img_start_id, *written, self.img_end_id]
                    at = end + 1
                    continue
            out += ids[at : at + 1]
            at += 1
        decoded: str = super()._decode(out, skip_special_tokens=skip_special_tokens, **kwargs)
        return decoded
