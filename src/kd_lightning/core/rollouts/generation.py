"""Text from a role: batched, with a KV cache, without a trace in the training."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from kd_lightning.core.modes import evaluating
from kd_lightning.core.roles import Role, Roles
from kd_lightning.core.rollouts.prompts import Prompts, Responses, continued, take_prompts
from kd_lightning.core.rollouts.sampler import CachedGuide, Sampler, exact, noise


@dataclass(frozen=True)
class Generation:
    """How responses are written.

    Attributes:
        max_new_tokens: Longest response, in tokens; half of the net's context at most. Prompts that leave less room
            lose their beginning.
        temperature: Divides the logits before a token is drawn; 0: the most probable token, always.
        top_k: Draw among the k most probable tokens; None for all.
        top_p: Draw among the most probable tokens that have this probability together; 1 for all.
        num_beams: With temperature 0: width of the beam search; 1 for greedy search.
        prompt_tokens: How many tokens of a plain text (one without prompt) are taken as its prompt.
        eos_token_id: Token that ends a response; None for that of the data's tokenizer, else of the net, if any.
        seed: Together with view and index of a sample it decides what is drawn.
    """

    max_new_tokens: int = 128
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    num_beams: int = 1
    prompt_tokens: int = 32
    eos_token_id: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "num_beams", "prompt_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"rollout.generation.{name} must be at least 1, not {getattr(self, name)}.")
        if self.temperature < 0:
            raise ValueError(f"rollout.generation.temperature must not be negative, not {self.temperature}.")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"rollout.generation.top_k must be at least 1, or null for all, not {self.top_k}.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"rollout.generation.top_p must be above 0 and at most 1, not {self.top_p}.")
        if self.temperature and self.num_beams > 1:
            raise ValueError("Beam search draws nothing: set rollout.generation.temperature=0, or num_beams=1.")

    def of(self, data: Any) -> Generation:
        """The same with the end token of the data's tokenizer, where none was given."""
        end = getattr(getattr(data, "tokenizer", None), "eos_token_id", None)
        return self if self.eos_token_id is not None or end is None else replace(self, eos_token_id=end)

    def settings(self) -> dict[str, Any]:
        """What decides the responses, as JSON values."""
        return asdict(self)


def writer(role: Role) -> Any:
    """The net of a role that has ``generate``, without a wrapper of PEFT: adapters are inside its layers."""
    unwrap = getattr(role.net, "get_base_model", None)
    return unwrap() if callable(unwrap) else role.net


def role_of(roles: Roles, name: str) -> Role:
    """The role that is to write.

    Raises:
        ValueError: Where there is no such role, or it cannot generate.
    """
    if name not in roles.by_name:
        near = difflib.get_close_matches(name, roles.by_name, n=1)
        raise ValueError(
            f"The rollout needs the role '{name}', and there are {', '.join(roles.by_name)}."
            + (f" Did you mean '{near[0]}'?" if near else "")
        )
    role = roles.by_name[name]
    net = writer(role)
    able = callable(getattr(net, "generate", None)) and getattr(net, "generation_config", None) is not None
    if not able or getattr(net.config, "is_encoder_decoder", False):
        raise ValueError(
            f"The rollout takes text from the {name}, and {type(net).__name__} is no causal language model of"
            f" transformers, which generates. Choose one (model@{role.key}=tiny_gpt), or method.rollout=null to learn"
            " from the texts of the data."
        )
    return role


def context(role: Role) -> int | None:
    """How many tokens a net can read, if there is a limit."""
    limit: int | None = getattr(writer(role).config, "max_position_embeddings", None)
    return limit


def longest_prompt(how: Generation, *roles: Role) -> int | None:
    """The longest prompt that leaves room for a response in the context of all of them; see :class:`Generation`."""
    limits = [limit for limit in map(context, roles) if limit is not None]
    return max(min(limits) - how.max_new_tokens, min(limits) // 2) if limits else None


def continue_batch(
    batch: Mapping[str, Any], role: Role, how: Generation, guide: Role | None = None, mix: float = 0.0
) -> dict[str, Any]:
    """The batch with responses of the role in place of what follows its prompts; see :func:`continued`.

    An example (without ``step``) gets responses of one token: enough for shapes, quick on any machine.
    """
    actors = [role] if guide is None else [role, guide]
    prompts = take_prompts(batch, how.prompt_tokens, longest_prompt(how, *actors))
    count = how.max_new_tokens if "step" in batch else 1
    responses = respond(role, prompts, how, count, batch["index"], batch.get("view", 0), guide, mix)
    return continued(batch, prompts, responses, pad_token(writer(role), how))


def respond(
    role: Role,
    prompts: Prompts,
    how: Generation,
    count: int,
    index: Tensor,
    view: int = 0,
    guide: Role | None = None,
    mix: float = 0.0,
) -> Responses:
    """Responses of a role, at most ``count`` tokens each.

    The role is in eval mode meanwhile and its taps and call record nothing; no gradient; no global random state moves.

    Args:
        role: Who writes, from :func:`role_of`.
        prompts: What to continue, no longer than :func:`longest_prompt`.
        how: Settings.
        count: Longest response.
        index: Samples, (B,) int64: names of what is drawn.
        view: Another name of it, such as the epoch.
        guide: Role that is mixed in while drawing, or None.
        mix: Its share.
    """
    net, width = writer(role), prompts.input_ids.shape[1]
    actors = [role] if guide is None else [role, guide]
    for limit in (context(actor) for actor in actors):
        count = count if limit is None else min(count, limit - width)
    vocabulary = _Vocabulary(getattr(role.call, "vocab_size", None))
    sampler, configuration = None, _configure(net, how, count)
    with torch.no_grad(), ExitStack() as stack:
        for actor in actors:
            stack.enter_context(_quiet(actor))
        if how.temperature:
            reader = None if guide is None else CachedGuide(writer(guide), prompts.attention_mask, vocabulary.size)
            device = prompts.input_ids.device
            uniform = noise(how.seed, view, index, count).to(exact(device)).to(device)
            sampler = Sampler(uniform, width, how.temperature, how.top_k, how.top_p, reader, mix)
        output = net.generate(
            input_ids=prompts.input_ids,
            attention_mask=prompts.attention_mask,
            generation_config=configuration,
            logits_processor=[vocabulary] if sampler is None else [vocabulary, sampler],
        )
    tokens = output[:, width:]
    behaviour = None if sampler is None else torch.stack(sampler.log_probs, 1)
    return Responses(tokens, _lengths(tokens, end_tokens(net, how)), behaviour)


def _lengths(tokens: Tensor, ends: list[int]) -> Tensor:
    """Tokens of each row up to and including the first end token, (B,)."""
    if not ends:
        return torch.full_like(tokens[:, 0], tokens.shape[1])
    ended = torch.isin(tokens, torch.tensor(ends, device=tokens.device))
    # cumsum counts the ends so far; positions before the first one, and that one itself, belong to the response.
    return ((ended.cumsum(1) - ended.long()) == 0).sum(1)


def end_tokens(net: Any, how: Generation) -> list[int]:
    """Tokens that end a response."""
    given = how.eos_token_id if how.eos_token_id is not None else net.generation_config.eos_token_id
    given = given if given is not None else getattr(net.config, "eos_token_id", None)
    ends = [] if given is None else [given] if isinstance(given, int) else list(given)
    size = getattr(net.config, "vocab_size", None)
    return [int(end) for end in ends if size is None or 0 <= end < size]  # GPT-2's default of 50256 in a small net


def pad_token(net: Any, how: Generation) -> int:
    """Token at padded positions; any will do, they are masked."""
    given = net.generation_config.pad_token_id
    given = given if given is not None else getattr(net.config, "pad_token_id", None)
    if given is None or not 0 <= given < getattr(net.config, "vocab_size", given + 1):
        return (end_tokens(net, how) or [0])[0]
    return int(given)


def _configure(net: Any, how: Generation, count: int) -> Any:
    """A configuration of transformers that does what ``how`` says and nothing else."""
    return type(net.generation_config)(
        max_new_tokens=count,
        do_sample=False,  # the sampler has drawn: the largest score is its choice
        num_beams=1 if how.temperature else how.num_beams,
        use_cache=True,
        eos_token_id=end_tokens(net, how) or None,
        pad_token_id=pad_token(net, how),
    )


class _Vocabulary:
    """Leaves out what the tokenizer does not know (padding of the embedding matrix), as the call of the role does."""

    def __init__(self, size: int | None) -> None:
        self.size = size

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self.size is None or scores.shape[-1] <= self.size:
            return scores
        return scores.index_fill(-1, torch.arange(self.size, scores.shape[-1], device=scores.device), -torch.inf)


@contextmanager
def _quiet(role: Role) -> Iterator[None]:
    """The role in eval mode, unrecorded, in its own precision and with neutral defaults of generation."""
    net = writer(role)
    # What a checkpoint brings along (temperatures, penalties) would fill what our configuration leaves open.
    own, net.generation_config = net.generation_config, _neutral(net)
    # Without it, nothing warns of missing masks where generate leaves one out because no row is padded.
    pad, net.config.pad_token_id = net.config.pad_token_id, None
    device = next(net.parameters()).device.type
    autocast = nullcontext() if role.precision is None else torch.autocast(device, dtype=role.precision)
    try:
        with evaluating(net), role.paused(), autocast:
            yield
    finally:
        net.generation_config, net.config.pad_token_id = own, pad


def _neutral(net: Any) -> Any:
    own = net.generation_config
    return type(own)(eos_token_id=own.eos_token_id, pad_token_id=own.pad_token_id)
