"""The tokenizer of a pretrained checkpoint: it is the default, since its weights know no other."""

from __future__ import annotations

import copy
import logging

from omegaconf import OmegaConf

from kd_lightning.config.command import Command
from kd_lightning.config.pretrained import pretrained_name
from kd_lightning.config.roles import frozen, key_of, table
from kd_lightning.config.two_tokenizers import PREFIX
from kd_lightning.data.text.tokenizers import has_tokenizer

log = logging.getLogger("kd_lightning")

# Tokenizers that no checkpoint has: what the configurations of data come with.
_MADE = tuple(f"kd_lightning.data.text.tokenizers.{name}" for name in ("Bytes", "BPE"))


def with_own_tokenizer(command: Command) -> Command:
    """The command with the tokenizer of a pretrained role, the frozen ones first, for bytes or trained pieces."""
    settings = command.settings
    made = str((settings.data.get("tokenizer") or {}).get("_target_"))
    if made not in _MADE:
        return command
    roles = {**frozen(settings), **table(settings)}
    for key, role in roles.items():
        name = pretrained_name(role.net)
        if name is None or role.call.get("prefix") == PREFIX:
            continue
        if not has_tokenizer(name):
            log.warning(
                f"{key_of(key)}.net.name={name} holds no tokenizer: {made.rpartition('.')[2]} must be"
                " what it was trained with. Else set data.tokenizer."
            )
            continue
        log.info(f"data.tokenizer: that of the checkpoint {name} ({key_of(key)})")
        own = {"_target_": "kd_lightning.data.text.tokenizers.Pretrained", "name": name}
        raw = copy.deepcopy(command.raw)
        OmegaConf.update(raw, "data.tokenizer", own, merge=False, force_add=True)
        return Command(raw)
    return command
