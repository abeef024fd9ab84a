"""What the teacher writes, as text to learn from (SeqKD)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kd_lightning.core.roles import Role, Roles
from kd_lightning.core.rollouts.generation import Generation, end_tokens, longest_prompt, pad_token, respond, role_of
from kd_lightning.core.rollouts.kept import KeptResponses
from kd_lightning.core.rollouts.prompts import Prompts, Responses, continued, take_prompts


class TeacherGenerated:
    """The teacher continues the prompts of a batch, once for every sample: sequence-level distillation.

    Each response is kept, and found again in the next epochs; with ``folder`` on disk, also by other students, seeds
    and runs. A file there belongs to the teacher's weights and the settings, a response in it to its prompt, so
    that nothing stale is ever read.

    References:
        [0] Kim, Rush. Sequence-Level Knowledge Distillation. EMNLP 2016. (beam search)

    Args:
        generation: How the responses are written.
        folder: Where they are kept; None: in memory, for this run.
        role: Who writes; its weights must not change.
    """

    def __init__(self, generation: Generation, folder: str | None = None, role: str = "teacher") -> None:
        self.generation, self.folder, self.role = generation, folder, role
        self._kept: KeptResponses | None = None

    def attach(self, data: Any) -> None:
        """Take the data module, whose tokenizer knows what ends a text."""
        self.generation = self.generation.of(data)

    def __call__(self, batch: Mapping[str, Any], roles: Roles) -> Mapping[str, Any]:
        """The teacher's continuation of the batch's prompts."""
        role = role_of(roles, self.role)
        if role.trainable or role.follows is not None:
            raise ValueError(f"The rollout keeps what the {role.name} writes, but it learns: use OnPolicy.")
        prompts = take_prompts(batch, self.generation.prompt_tokens, longest_prompt(self.generation, role))
        if "step" not in batch:  # the example: one token, and nothing to keep
            responses = respond(role, prompts, self.generation, 1, batch["index"])
        else:
            responses = self._recalled(role, prompts, batch["index"])
        batch = {key: value for key, value in batch.items() if key != "behaviour"}
        return continued(
            batch, prompts, Responses(responses.tokens, responses.lengths), pad_token(role.net, self.generation)
        )

    def _recalled(self, role: Role, prompts: Prompts, index: Tensor) -> Responses:
        """Kept responses, and those that are new written first."""
        if self._kept is None:
            file = None if self.folder is None else Path(self.folder) / f"{self._key(role)}.sqlite"
            self._kept = KeptResponses(file)
        names = self._names(prompts, index)
        found = self._kept.get(names)
        new = torch.tensor([i for i, name in enumerate(names) if name not in found], device=index.device)
        if len(new):
            some = Prompts(*(x[new] for x in (prompts.input_ids, prompts.attention_mask, prompts.lengths)))
            made = respond(role, some, self.generation, self.generation.max_new_tokens, index[new])
            rows = zip(new.tolist(), made.tokens.tolist(), made.lengths.tolist(), strict=True)
            found |= self._kept.put({names[i]: tokens[:length] for i, tokens, length in rows})
        rows_found = [torch.tensor(found[name]) for name in names]
        tokens = torch.nn.utils.rnn.pad_sequence(rows_found, batch_first=True).to(index.device)
        return Responses(tokens, torch.tensor([len(row) for row in rows_found], device=index.device))

    def _names(self, prompts: Prompts, index: Tensor) -> list[str]:
        """Names of the samples: their prompt, and where tokens are drawn also their index."""
        rows = zip(prompts.input_ids.tolist(), prompts.lengths.tolist(), index.tolist(), strict=True)
        drawn = bool(self.generation.temperature)
        return [_digest([row[len(row) - length :], i if drawn else None]) for row, length, i in rows]

    def _key(self, role: Role) -> str:
        """Hash of the teacher's weights and of the settings."""
        settings: dict[str, Any] = self.generation.settings()
        if not self.generation.temperature:
            settings.pop("seed")  # nothing is drawn
        digest = hashlib.sha256(
            json.dumps([settings, end_tokens(role.net, self.generation), str(role.precision)]).encode()
        )
        for name, value in sorted(role.net.state_dict().items()):
            digest.update(name.encode())
            if isinstance(value, Tensor):
                digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:32]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
