"""Tokenizers: bytes, pieces trained on the training split, or those of a checkpoint.

All become a fast tokenizer of transformers, so that texts are encoded, saved and loaded in one way.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from kd_lightning.data.arrays import fingerprint
from kd_lightning.files.packages import resolve_name

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

_PAD, _START, _END, _MASK = "<pad>", "<s>", "</s>", "<mask>"
_SPECIAL = (_PAD, _START, _END, _MASK)
UNBOUNDED = 1_000_000
"""A ``model_max_length`` above it means that there is no limit."""

Corpus = Callable[[], Iterator[str]]


@runtime_checkable
class TokenizerFactory(Protocol):
    """Makes the tokenizer; touches no file before."""

    def build(self, corpus: Corpus, cache: Path) -> PreTrainedTokenizerBase:
        """The tokenizer.

        Args:
            corpus: Gives the texts of the training split.
            cache: Folder for what takes time to make.
        """
        ...


class Bytes:
    """Every byte of UTF-8 is a token, and its number is its value; 256 of them and four specials.

    No text is unknown and nothing is trained or fetched, but a text takes as many tokens as it has bytes.
    """

    def build(self, corpus: Corpus, cache: Path) -> PreTrainedTokenizerBase:
        """The tokenizer."""
        from tokenizers import Tokenizer, models

        vocabulary = {letter: value for value, letter in enumerate(_byte_letters())}
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
        return _finish(tokenizer, use_regex=False)


class BPE:
    """Byte-pair encoding on bytes, trained on the texts of the training split.

    The training is kept in the cache by the hash of these texts.

    Args:
        vocab_size: Tokens, the 256 bytes and four specials among them.
        min_frequency: A pair that is rarer is not merged.

    References:
        Sennrich et al., Neural Machine Translation of Rare Words with Subword Units, ACL 2016;
        on bytes: Radford et al., Language Models are Unsupervised Multitask Learners, 2019.
    """

    def __init__(self, vocab_size: int = 8000, min_frequency: int = 2) -> None:
        if vocab_size < 256 + len(_SPECIAL):
            raise ValueError(f"data.tokenizer.vocab_size must be at least {256 + len(_SPECIAL)}, got {vocab_size}.")
        self.vocab_size, self.min_frequency = vocab_size, min_frequency

    def build(self, corpus: Corpus, cache: Path) -> PreTrainedTokenizerBase:
        """The tokenizer, trained or as it was trained before."""
        from tokenizers import Tokenizer

        digest = hashlib.sha256()
        for text in corpus():
            data = text.encode(errors="surrogatepass")
            digest.update(f"{len(data)}:".encode() + data)
        path = cache / f"bpe-{fingerprint(digest.hexdigest(), repr(vars(self)))[:20]}.json"
        if path.is_file():
            try:
                return _finish(Tokenizer.from_file(str(path)))
            except Exception as error:  # the package raises nothing more special
                log.warning("%s is damaged (%s); the tokenizer is trained anew.", path, error)
                path.unlink()
        trained = self._train(corpus)
        try:
            _write_once(path, trained)
            trained = Tokenizer.from_file(str(path))  # of processes that train at once, the first decides
        except OSError as error:
            log.warning("The tokenizer cannot be kept in %s (%s).", path, error)
        return _finish(trained)

    def _train(self, corpus: Corpus) -> Tokenizer:
        from tokenizers import Tokenizer, models, pre_tokenizers, trainers

        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocab_size - len(_SPECIAL),
            min_frequency=self.min_frequency,
            initial_alphabet=_byte_letters(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(corpus(), trainer)
        return tokenizer


class Pretrained:
    """The tokenizer of a checkpoint.

    Args:
        name: Name on the Hugging Face hub, a local folder, or ``package:<package>/<folder>``.
        revision: Version on the hub.
        options: More arguments of ``AutoTokenizer.from_pretrained``.
    """

    def __init__(self, name: str, revision: str | None = None, **options: Any) -> None:
        self.name, self.revision, self.options = name, revision, options

    def build(self, corpus: Corpus, cache: Path) -> PreTrainedTokenizerBase:
        """The tokenizer; one without padding pads with its end of text.

        Raises:
            FileNotFoundError: It is neither in the folder nor on the hub, or there is no hub.
            ValueError: It is not a fast tokenizer.
        """
        from transformers import AutoTokenizer

        name = resolve_name(self.name)
        try:
            options = {"trust_remote_code": False, **self.options}  # unset, transformers would ask at the terminal
            tokenizer = AutoTokenizer.from_pretrained(name, revision=self.revision or "main", **options)
        except (OSError, ValueError, KeyError) as error:
            where = "this folder" if Path(name).is_dir() else "the Hugging Face hub (or this machine is offline)"
            raise FileNotFoundError(
                f"data.tokenizer.name={self.name}: no tokenizer in {where}. Give a local folder that holds"
                " tokenizer.json, or one that needs no hub: data.tokenizer._target_=kd_lightning.data.text.tokenizers."
                f"Bytes (and no name). ({_first_line(error)})"
            ) from error
        if not getattr(tokenizer, "is_fast", False):
            raise ValueError(f"data.tokenizer.name={self.name} is not a fast tokenizer; convert it to tokenizer.json.")
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        if tokenizer.pad_token is None:
            raise ValueError(f"data.tokenizer.name={self.name} has neither a padding nor an end token.")
        return tokenizer


def has_tokenizer(name: str) -> bool:
    """Whether a checkpoint comes with a tokenizer: a folder that holds one; a name on the hub is taken to."""
    folder = Path(resolve_name(name)).expanduser()
    return not folder.is_dir() or any((folder / file).is_file() for file in ("tokenizer.json", "tokenizer_config.json"))


def row_length(wanted: int | None, limit: int) -> int:
    """Most tokens of a row: as wanted, else what the tokenizer's checkpoint takes.

    Raises:
        ValueError: Nothing is said, or more than the checkpoint takes.
    """
    if wanted is None and limit > UNBOUNDED:
        raise ValueError("data.max_length is null, but the tokenizer knows no limit; set it, for example to 128.")
    if wanted is not None and wanted > limit:
        raise ValueError(f"data.max_length={wanted}, but the tokenizer's checkpoint takes {limit} at most.")
    return int(limit if wanted is None else wanted)


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash of what decides how it encodes."""
    at_rest(tokenizer)
    backend: Any = tokenizer
    special = sorted((key, str(value)) for key, value in tokenizer.special_tokens_map.items())
    return fingerprint(backend.backend_tokenizer.to_str(), repr(special))


def at_rest(tokenizer: PreTrainedTokenizerBase) -> None:
    """Undo what the last call left in it: it keeps how it cut and padded, and would be saved with that."""
    backend: Any = tokenizer
    backend.backend_tokenizer.no_truncation()
    backend.backend_tokenizer.no_padding()


def special_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that stand for no text; the unknown token is not one of them."""
    names = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id", "mask_token_id")
    return sorted({value for name in names if (value := getattr(tokenizer, name, None)) is not None})


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _byte_letters() -> list[str]:
    """The printable letter that stands for each byte in byte-level tokenizers (Radford et al., 2019): Latin-1's own
    where it is printable, else one from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def _finish(tokenizer: Tokenizer, use_regex: bool = True) -> PreTrainedTokenizerBase:
    """Add the specials and what stands around one text, or two."""
    from tokenizers import AddedToken, decoders, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in _SPECIAL])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{_START} $A {_END}",
        pair=f"{_START} $A {_END} $B:1 {_END}:1",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in (_START, _END)],
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token=_PAD,
        bos_token=_START,
        cls_token=_START,
        eos_token=_END,
        sep_token=_END,
        mask_token=_MASK,
    )


def _write_once(path: Path, tokenizer: Tokenizer) -> None:
    """Write the file unless another process was first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    tokenizer.save(str(partial))
    try:
        os.link(partial, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without links
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
