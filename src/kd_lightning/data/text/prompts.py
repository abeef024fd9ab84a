"""Prompts of language models: what is put around them, what a text begins with, and what gives way where it is long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHAT = "chat"
# Stands for a prompt while it is looked up what a template puts around it.
_MARK = "kdpromptkd"


def start_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What a language model's text begins with: the start token, where the tokenizer itself puts it."""
    around: Any = tokenizer("")["input_ids"]
    own = tokenizer.bos_token_id
    return [own] if own is not None and list(around[:1]) == [own] else []


def fill(tokenizer: Any, template: str | None, prompt: str) -> str:
    """A prompt in its template."""
    if template is None:
        return prompt
    if template == CHAT:
        if not tokenizer.chat_template:
            raise ValueError("data.template=chat, but the tokenizer has no chat template; write one with {prompt}.")
        said = [{"role": "user", "content": prompt}]
        return str(tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True))
    if "{prompt}" not in template:
        raise ValueError(f"data.template must hold {{prompt}}, got {template!r}.")
    return template.replace("{prompt}", prompt)


@dataclass(frozen=True)
class Prompt:
    """A prompt in its template, as tokens.

    Attributes:
        before: Tokens of the template before it.
        own: Those of the prompt itself.
        after: Those of the template behind it.
    """

    before: tuple[int, ...]
    own: tuple[int, ...]
    after: tuple[int, ...] = ()

    @classmethod
    def of(cls, tokens: Sequence[int], offsets: Sequence[tuple[int, int]], around: tuple[int, int]) -> Prompt:
        """Of a text that is tokenised.

        Args:
            tokens: Of the whole text.
            offsets: First character of each, and the one behind its last.
            around: Characters of the template before the prompt, and where the template goes on.
        """
        first, behind = around
        inside = [i for i, (start, end) in enumerate(offsets) if first <= start < end <= behind]
        if not inside:
            return cls(tuple(tokens), ())
        return cls(
            tuple(tokens[: inside[0]]), tuple(tokens[inside[0] : inside[-1] + 1]), tuple(tokens[inside[-1] + 1 :])
        )

    def __len__(self) -> int:
        return len(self.before) + len(self.own) + len(self.after)

    def without_start(self, start: Sequence[int]) -> Prompt:
        """Without the first token, where the template writes what every text begins with anyway."""
        doubled = bool(start) and self.before[: len(start)] == tuple(start)
        return replace(self, before=self.before[len(start) :]) if doubled else self

    def within(self, most: int) -> list[int]:
        """At most so many tokens: the beginning of the prompt gives way, and never its template.

        Raises:
            ValueError: The template alone is longer.
        """
        over = max(0, len(self) - most)
        if over and over >= len(self.own) and (self.before or self.after):
            raise ValueError(
                f"data.max_length is too small for data.template: the template alone has"
                f" {len(self.before) + len(self.after)} tokens, and a prompt has room for {most} with it. Set a larger"
                " data.max_length, or a shorter data.template."
            )
        return [*self.before, *self.own[over:], *self.after]


def encode_prompts(tokenizer: Any, backend: Any, template: str | None, prompts: Sequence[str]) -> list[Prompt]:
    """Prompts in their template as tokens, without what every text begins with.

    Args:
        tokenizer: Knows the template of chats, and the start.
        backend: Tokenises, as ``backend_tokenizer``.
        template: As ``data.template``.
        prompts: As they were asked.
    """
    filled = [fill(tokenizer, template, prompt) for prompt in prompts]
    encoded = backend.encode_batch(filled, add_special_tokens=False)
    if template is None:
        return [Prompt((), tuple(one.ids)) for one in encoded]
    start, parts = start_ids(tokenizer), fill(tokenizer, template, _MARK).split(_MARK)
    found = []
    for text, one in zip(filled, encoded, strict=True):
        fits = len(parts) == 2 and text.startswith(parts[0]) and text.endswith(parts[1])
        around = (len(parts[0]), len(text) - len(parts[1])) if fits else (0, 0)
        found.append(Prompt.of(one.ids, one.offsets, around).without_start(start))
    return found
