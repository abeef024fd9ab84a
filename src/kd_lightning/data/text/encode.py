"""From texts to rows of tokens, one way for each task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from kd_lightning.data.targets import IGNORE, MASKED_TOKENS, NEXT_TOKENS, TAGS, Target, find_target, target_of
from kd_lightning.data.text.labels import Samples
from kd_lightning.data.text.packing import pack_rows
from kd_lightning.data.text.prompts import Prompt, encode_prompts, start_ids
from kd_lightning.data.text.rows import Rows, join_rows, make_rows
from kd_lightning.data.text.texts import CHUNK, Texts, pick
from kd_lightning.data.text.tokenizers import at_rest
from kd_lightning.tasks.base import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LANGUAGE_MODELS = (MASKED_TOKENS, NEXT_TOKENS)


@dataclass(frozen=True)
class Layout:
    """How samples become rows.

    Args:
        task: Name of the task.
        max_length: Most tokens of a row.
        blocks: Join the texts of a split, an end token between them, and cut them into rows of ``max_length``.
        packing: Put several short samples into one row (causal_lm).
        template: What a prompt is put into, with ``{prompt}``; ``chat`` takes the tokenizer's own template.
    """

    task: str
    max_length: int
    blocks: bool = False
    packing: bool = False
    template: str | None = None

    @property
    def target(self) -> Target:
        """The kind of its targets."""
        return target_of(self.task)


def encode(samples: Samples, positions: Tensor, tokenizer: PreTrainedTokenizerBase, layout: Layout) -> Rows:
    """Rows of the samples at ``positions`` (n,) int64, n > 0, in this order."""
    parts = []
    stream = _Stream(tokenizer, layout) if layout.blocks else None
    for start in range(0, len(positions), CHUNK):
        chunk = positions[start : start + CHUNK]
        if stream is not None:
            parts.append(stream.add(pick(samples.texts.text, chunk), chunk.tolist()))
        elif layout.target is NEXT_TOKENS:
            parts.append(_causal(samples.texts, chunk, tokenizer, layout))
        elif layout.target is TAGS:
            parts.append(_words(samples, chunk, tokenizer, layout))
        else:
            parts.append(_sequences(samples.texts, chunk, tokenizer, layout))
    if stream is not None:
        parts.append(stream.rest())
    rows = join_rows(parts)
    return pack_rows(rows, layout.max_length) if layout.packing else rows


def _sequences(texts: Texts, chunk: Tensor, tokenizer: PreTrainedTokenizerBase, layout: Layout) -> Rows:
    """One text, or two, with the special tokens around."""
    second = None if texts.pair is None else pick(texts.pair, chunk)
    found = tokenizer(
        pick(texts.text, chunk),
        second,
        truncation=True,
        max_length=layout.max_length,
        return_token_type_ids=second is not None,
        return_attention_mask=False,
    )
    types: Any = found["token_type_ids"] if second is not None else None
    tokens: Any = found["input_ids"]
    return make_rows(tokens, chunk.tolist(), cut=_cut(found), types=types)


def _words(samples: Samples, chunk: Tensor, tokenizer: PreTrainedTokenizerBase, layout: Layout) -> Rows:
    """Words in pieces: the first piece of a word carries its class."""
    assert samples.texts.words is not None
    assert samples.tags is not None
    words = [list(sentence) for sentence in pick(samples.texts.words, chunk)]
    tags = [samples.tags[i] for i in chunk.tolist()]
    for position, sentence, found in zip(chunk.tolist(), words, tags, strict=True):
        if len(sentence) != len(found):
            raise ValueError(f"Sample {position} has {len(sentence)} words but {len(found)} tags.")
    sentences = [spaced(sentence, tokenizer) for sentence in words]
    encoded: Any = tokenizer(
        sentences, is_split_into_words=True, truncation=True, max_length=layout.max_length, return_attention_mask=False
    )
    labels = []
    for row, found in enumerate(tags):
        places = encoded.word_ids(row)
        first = [place is not None and place != before for place, before in zip(places, [None, *places], strict=False)]
        labels.append([found[p] if new else IGNORE for p, new in zip(places, first, strict=True)])
    return make_rows(encoded["input_ids"], chunk.tolist(), cut=_cut(encoded), labels=labels)


def _cut(encoded: Any) -> int:
    """How many texts were longer than what was read of them."""
    return sum(bool(one.overflowing) for one in encoded.encodings or ())


def spaced(words: Sequence[str], tokenizer: Any) -> list[str]:
    """Words as byte-level tokenizers know them: a space before each but the first."""
    kind = tokenizer.backend_tokenizer.pre_tokenizer
    if type(kind).__name__ != "ByteLevel" or getattr(kind, "add_prefix_space", False):
        return list(words)
    return [word if i == 0 else f" {word}" for i, word in enumerate(words)]


def ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Tokens of texts, without special ones around; as long as they come out."""
    if not texts:
        return []
    options: dict[str, Any] = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}
    found: Any = tokenizer(list(texts), return_token_type_ids=False, **options)
    return list(found["input_ids"])


def _causal(texts: Texts, chunk: Tensor, tokenizer: PreTrainedTokenizerBase, layout: Layout) -> Rows:
    """Start, prompt, response, end. Where it is too long the prompt gives way first: its beginning is cut (never its
    template), down to half of the row; then the end of the response."""
    if tokenizer.eos_token_id is None:
        raise ValueError(f"data.task={layout.task} needs a tokenizer with an end token (eos).")
    start, end = start_ids(tokenizer), [tokenizer.eos_token_id]
    responses = ids(tokenizer, pick(texts.text, chunk))
    prompts: list[Prompt] | None = None
    if texts.prompt is not None:
        at_rest(tokenizer)
        backend: Any = tokenizer
        prompts = encode_prompts(tokenizer, backend.backend_tokenizer, layout.template, pick(texts.prompt, chunk))
    tokens, sizes, cut = [], [], 0
    for row, response in enumerate(responses):
        lead = prompts[row] if prompts is not None else Prompt((), ())
        room = layout.max_length - len(start)
        keep = max(room - len(response) - 1, layout.max_length // 2 - len(start))
        cut += len(lead) + len(response) + 1 > room
        prompt = lead.within(keep)
        tokens.append([*start, *prompt, *[*response, *end][: room - len(prompt)]])
        sizes.append(len(start) + len(prompt))
    return make_rows(tokens, chunk.tolist(), sizes if prompts is not None else None, cut)


class _Stream:
    """Texts joined and cut into blocks; what does not fill a block waits for the next text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, layout: Layout) -> None:
        self.tokenizer = tokenizer
        encoder = layout.target is MASKED_TOKENS
        around = (tokenizer.cls_token_id, tokenizer.sep_token_id) if encoder else (None, None)
        self.before, self.after = ([] if token is None else [token] for token in around)
        between = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
        self.between = [] if between is None else [between]
        self.size = layout.max_length - len(self.before) - len(self.after)
        self.tokens: list[int] = []
        self.samples: list[int] = []

    def add(self, texts: Sequence[str], samples: Sequence[int]) -> Rows:
        """Blocks that are full."""
        for sample, found in zip(samples, ids(self.tokenizer, texts), strict=True):
            found = [*found, *self.between]
            self.tokens += found
            self.samples += [sample] * len(found)
        full = len(self.tokens) // self.size * self.size
        rows = self._rows(range(0, full, self.size))
        del self.tokens[:full], self.samples[:full]
        return rows

    def rest(self) -> Rows:
        """The last block; a single token is not worth one."""
        return self._rows(range(0, 1 if len(self.tokens) > 1 else 0, self.size))

    def _rows(self, starts: range) -> Rows:
        blocks = [self.tokens[start : start + self.size] for start in starts]
        samples = [set(self.samples[start : start + self.size]) for start in starts]
        return make_rows(
            [[*self.before, *block, *self.after] for block in blocks],
            [next(iter(found)) if len(found) == 1 else -1 for found in samples],
        )


def check_layout(layout: Layout, texts: Texts, tokenizer: Any) -> None:
    """Refuse what does not fit together.

    Raises:
        ValueError: With what to do.
    """
    if layout.max_length < 4:
        raise ValueError(f"data.max_length must be at least 4, got {layout.max_length}.")
    if layout.blocks and layout.target not in LANGUAGE_MODELS:
        raise ValueError(f"data.blocks=true is for language models, not for data.task={layout.task}.")
    if layout.blocks and (layout.packing or texts.prompt is not None):
        raise ValueError("data.blocks=true joins plain texts: set data.blocks=false for prompts or data.packing.")
    if layout.packing and layout.target is not NEXT_TOKENS:
        raise ValueError(f"data.packing=true is for data.task=causal_lm, not for {layout.task}.")
    if texts.prompt is not None and layout.target is not NEXT_TOKENS:
        raise ValueError(f"The source gives prompts, which only data.task=causal_lm knows, not {layout.task}.")
    if layout.target is MASKED_TOKENS and tokenizer.mask_token_id is None:
        raise ValueError(f"data.task={layout.task} needs a tokenizer with a mask token; take that of an encoder.")


def count_classes(task: Task, names: Sequence[str], vocabulary: int) -> int | None:
    """Width of the answers of a task; None where the net decides."""
    kind = find_target(task.target)
    if kind in LANGUAGE_MODELS:
        return vocabulary
    return None if task.width is None else kind.width or len(names)
