"""The data module for text."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kd_lightning.data.base import Batch, SplitDataModule
from kd_lightning.data.counter import fold_text
from kd_lightning.data.loader import Signals
from kd_lightning.data.split import NAMES, Split
from kd_lightning.data.targets import IGNORE, MASKED_TOKENS, TAGS
from kd_lightning.data.text.batches import Form, TextDataset, make_form
from kd_lightning.data.text.choices import check_choices, check_found
from kd_lightning.data.text.encode import LANGUAGE_MODELS, Layout, check_layout, count_classes
from kd_lightning.data.text.labels import Samples, label_samples
from kd_lightning.data.text.notes import notes
from kd_lightning.data.text.rows import Rows
from kd_lightning.data.text.splits import Encoder
from kd_lightning.data.text.teacher_tokens import TeacherTokens
from kd_lightning.data.text.texts import TextSource, said, training_corpus, without_duplicates
from kd_lightning.data.text.tokenizers import TokenizerFactory, at_rest, row_length, tokenizer_hash
from kd_lightning.tasks.registry import find_task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class TextDataModule(SplitDataModule):
    """Text for teacher and student.

    A batch is a dictionary (B samples, T tokens):

    - ``input_ids``, ``attention_mask`` (1: a token, 0: padding): (B, T) int64; of pairs also ``token_type_ids``.
    - ``target``: classification (B,) int64, -100 unlabelled; regression (B,) float32, nan unlabelled;
      token_classification and masked_lm (B, T) int64; causal_lm (B, T) int64, already moved by one, so that
      ``target[:, t]`` is the token after position t; -100 wherever nothing is asked; embedding (B,) of -100.
    - tasks of tokens: ``loss_mask`` (B, T) bool, where ``target`` is not -100.
    - causal_lm: ``prompt_length`` (B,) int64, the tokens of the prompt without padding; 0 for plain text. Packed rows
      have ``position_ids`` that restart and ``segment_ids`` (from 1; padding 0) instead.
    - ``teacher_tokenizer``: ``teacher_input_ids``, ``teacher_attention_mask``, ``teacher_target`` and
      ``teacher_loss_mask`` (B, S) of the same texts; ``target_ends`` and ``teacher_target_ends``: the character after
      the last one of the token that each position predicts, the end token being one character.
    - ``index``: (B,) int64, the position within the split; while training also ``view`` and what ``signals`` gives.

    Args:
        source, tokenizer: Give the texts and make the tokenizer.
        task: classification, regression, token_classification, masked_lm, causal_lm, embedding, or the dotted path of
            another.
        max_length: Most tokens of a sample; None for what the tokenizer's checkpoint takes.
        blocks: Join the texts of a split and cut them into rows of ``max_length`` (language models); None: where the
            source gives documents.
        packing: Several short samples in one row (causal_lm).
        template: What a prompt is put into, with ``{prompt}``; ``chat`` for the tokenizer's own; None: as it is.
        buckets: Training batches of similar length.
        pad: ``longest`` of the batch, or ``max``: all rows alike, as stored signals of tokens need it.
        padding_side: ``right`` or ``left``.
        mask_probability: Share of the tokens that masked_lm hides.
        drop_duplicates: Of equal texts keep one: in the test if it is there, else validation, else training.
        cache_dir: Tokens and trained tokenizers are kept here, by content.
        name: Name for reports; None for that of the source.
        num_classes: Checked against the data; None to take what is found.
        vocab_size: As ``num_classes``.
        pad_token_id: As ``num_classes``.
        teacher_tokenizer: Makes a tokenizer of the teacher's own (causal_lm); None: it has the student's.
        teacher_max_length: Most tokens of the teacher; None: ``max_length``. Texts are cut to what both take.
        teacher_vocab_size, teacher_pad_token_id: As ``num_classes``.
        root: Folder of the data, for configurations that pass it on to the source; of no effect here.
        base: Arguments of :class:`SplitDataModule`.
    """

    def __init__(
        self,
        source: TextSource,
        tokenizer: TokenizerFactory,
        *,
        task: str = "classification",
        max_length: int | None = None,
        blocks: bool | None = None,
        packing: bool = False,
        template: str | None = None,
        buckets: bool = True,
        pad: str = "longest",
        padding_side: str = "right",
        mask_probability: float = 0.15,
        drop_duplicates: bool = False,
        cache_dir: str = "outputs/cache/text",
        name: str | None = None,
        num_classes: int | None = None,
        vocab_size: int | None = None,
        pad_token_id: int | None = None,
        teacher_tokenizer: TokenizerFactory | None = None,
        teacher_max_length: int | None = None,
        teacher_vocab_size: int | None = None,
        teacher_pad_token_id: int | None = None,
        root: str | None = None,
        **base: Any,
    ) -> None:
        super().__init__(name=name or type(source).__name__.lower(), **base)
        if not isinstance(source, TextSource):
            raise ValueError(f"data.source must have load(), got {type(source).__name__}.")
        if not isinstance(tokenizer, TokenizerFactory):
            raise ValueError(f"data.tokenizer must have build(), got {type(tokenizer).__name__}.")
        pads, sides = ("longest", "max"), ("right", "left")
        check_choices(pad=(pad, pads), padding_side=(padding_side, sides))
        if not 0 < mask_probability < 1:
            raise ValueError(f"data.mask_probability must lie between 0 and 1, got {mask_probability}.")
        self.source, self.factory, self.root, self.cache_dir = source, tokenizer, root, Path(cache_dir)
        self.task, self.max_length = find_task(task), max_length
        self.blocks, self.packing, self.template = blocks, packing, template
        self.buckets, self.pad, self.padding_side = buckets, pad, padding_side
        self.mask_probability, self.drop_duplicates = mask_probability, drop_duplicates
        self.num_classes, self.vocab_size, self.pad_token_id = num_classes, vocab_size, pad_token_id
        theirs = (teacher_max_length, teacher_vocab_size, teacher_pad_token_id)
        self.teacher = None if teacher_tokenizer is None else TeacherTokens(teacher_tokenizer, *theirs)
        self._samples: Samples | None = None
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._rows: dict[str, Rows] = {}
        self._form: Form | None = None

    # ---- data and split

    def prepare(self) -> None:
        """Read, split, and tokenise what is not in the cache; then ``facts``, num_samples, class_names and
        fingerprint are known. Calling it again does nothing.

        Raises FileNotFoundError where the data or a tokenizer is missing, ValueError where something does not fit.
        """
        if self._form is not None:
            return
        found = self.source.load()
        texts = without_duplicates(found) if self.drop_duplicates else found
        duplicates = len(found) - len(texts)
        samples = label_samples(texts, self.task)
        texts = samples.texts
        documents = self._set_split(samples)
        corpus = partial(training_corpus, texts, documents.train)
        tokenizer = self.factory.build(corpus, self.cache_dir)
        layout = self._layout(samples, tokenizer)
        check_layout(layout, texts, tokenizer)
        if self.teacher is not None:
            self.teacher.open(corpus, self.cache_dir, layout, str(self.name))
        self._samples, self._tokenizer = samples, tokenizer
        self._encode(documents, layout)
        self._describe()
        self._form = make_form(
            self.target,
            tokenizer,
            length=self.max_length if self.pad == "max" else None,
            left=self.padding_side == "left",
            mask_seed=fold_text(self.seed, "mask"),
            mask_probability=self.mask_probability,
        )
        self._tell(samples, notes(samples, self._rows, duplicates, layout.max_length))

    def _layout(self, samples: Samples, tokenizer: PreTrainedTokenizerBase) -> Layout:
        length = row_length(self.max_length, tokenizer.model_max_length)
        whole = self.target in LANGUAGE_MODELS and samples.texts.documents
        blocks = whole if self.blocks is None else self.blocks
        return Layout(self.task.name, length, blocks, self.packing, self.template)

    def _encode(self, documents: Split, layout: Layout) -> None:
        """Rows of every split, and the split of the rows."""
        assert self._samples is not None
        encoder = Encoder(self._samples, self.tokenizer, layout, self.cache_dir, self.teacher)
        self._rows, self._split, self.fingerprint = encoder.encode(documents)
        if not len(self._split.train):
            raise ValueError(f"{self.name}: the training texts are too short to fill a row.")
        self.num_samples = len(self._split.train)
        self.max_length = layout.max_length

    def _describe(self) -> None:
        """Classes and vocabulary, compared with the configuration."""
        assert self._samples is not None
        self.class_names = self._samples.class_names
        found = {
            "num_classes": count_classes(self.task, self.class_names, len(self.tokenizer)),
            "vocab_size": len(self.tokenizer),
            "pad_token_id": self.tokenizer.pad_token_id,
        }
        check_found(str(self.name), {key: getattr(self, key) for key in found}, found)
        for key, value in found.items():
            setattr(self, key, value)

    # ---- what is known

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer."""
        if self._tokenizer is None:
            self.prepare()
        assert self._tokenizer is not None
        return self._tokenizer

    def save_tokenizer(self, folder: str | Path) -> None:
        """Write the tokenizer into ``folder``; ``AutoTokenizer.from_pretrained`` reads it."""
        at_rest(self.tokenizer)
        self.tokenizer.save_pretrained(str(folder))

    @property
    def facts(self) -> dict[str, Any]:
        """``num_classes`` (None for embedding), ``vocab_size``, ``pad_token_id``, ``max_length``; the teacher's own."""
        self.prepare()
        found = {key: getattr(self, key) for key in ("num_classes", "vocab_size", "pad_token_id", "max_length")}
        return found if self.teacher is None else {**found, **self.teacher.facts}

    @property
    def one_view(self) -> bool:
        """Whether a sample looks the same in every view; masked language models see new masks."""
        return self.target is not MASKED_TOKENS

    @property
    def view_key(self) -> Any:
        """Share and seed of the masks."""
        return None if self.one_view else [self.mask_probability, self.seed]

    def targets(self, split: str = "train") -> Tensor:
        """Targets of a split by ``index``: (n,) int64 or float32; of token_classification (n, T) int64.

        Raises:
            ValueError: Of a language model: its targets are the tokens themselves, see the batches.
        """
        if self.target in LANGUAGE_MODELS:
            raise ValueError(f"data.task={self.task} has no targets beside those of its batches.")
        if not len(self.split[split]):
            return self.target.none(0)
        rows, own = self._rows[split], self._own(split)
        if self.target is TAGS:
            found, real = rows.padded(own, int(rows.lengths[own].max()))
            return torch.where(real, found["labels"], IGNORE)
        assert self._samples is not None
        return self._samples.targets[rows.samples[own]]

    def texts(self, split: str) -> list[str]:
        """Texts of a split by ``index``; of a pair both, of a prompt and its response both, with a tab between; of
        rows that were cut or packed, what their tokens say."""
        if not len(self.split[split]):
            return []
        assert self._samples is not None
        rows, own, texts = self._rows[split], self._own(split), self._samples.texts
        if texts.documents or self.packing or self.blocks:
            return [str(text) for text in self.tokenizer.batch_decode(rows.lists(own), skip_special_tokens=True)]
        return said(texts, rows.samples[own])

    @property
    def kind(self) -> str:
        """``text``."""
        return "text"

    def shown(self, split: str) -> dict[int, Any]:
        """The texts."""
        return dict(enumerate(self.texts(split)))

    def preprocessing(self) -> dict[str, Any]:
        """How a text becomes tokens, as JSON values; the tokenizer itself is saved beside it."""
        self.prepare()
        assert self._samples is not None
        return {
            "kind": "text",
            "task": self.task.name,
            "max_length": self.max_length,
            "padding_side": self.padding_side,
            "pad": self.pad,
            "pair": self._samples.texts.pair is not None,
            "prompt": self._samples.texts.prompt is not None,
            "template": self.template,
            "blocks": self._layout(self._samples, self.tokenizer).blocks,
            "tokenizer": tokenizer_hash(self.tokenizer),
            "class_names": list(self.class_names),
        }

    # ---- batches

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int = 0) -> Batch:
        """Lightning's hook: nothing is left to do on the device."""
        return batch

    def _own(self, split: str) -> Tensor:
        """Rows of a split as positions among its own rows, (n,) int64."""
        return self.split[split] - sum(len(self._rows.get(name, ())) for name in NAMES[: NAMES.index(split)])

    def _dataset(self, split: str, signals: Signals | None) -> TextDataset:
        assert self._form is not None
        targets = None if self.target.each == "token" else self.targets(split)
        theirs = None if self.teacher is None else (self.teacher.rows[split], self.teacher.form(self._form))
        return TextDataset(self._rows[split], self._own(split), targets, self._form, signals, theirs)

    def _lengths(self, split: str) -> Tensor | None:
        return self._rows[split].lengths[self._own(split)] if self.buckets and self.pad == "longest" else None

    def _relabel(self, positions: Tensor, labels: Tensor) -> None:
        assert self._samples is not None
        self._samples.targets[self._rows["train"].samples[positions]] = labels.to(self._samples.targets)
