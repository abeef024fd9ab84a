"""A source of what a test gives, and a data module on it."""

from kd_lightning.data.text.module import TextDataModule
from kd_lightning.data.text.texts import Texts
from kd_lightning.data.text.tokenizers import Bytes


class Given:
    """Gives these texts."""

    def __init__(self, *args, **kwargs):
        self.texts, self.loads = Texts(*args, **kwargs), 0

    def load(self):
        self.loads += 1
        return self.texts


def module(texts, tmp_path, tokenizer=None, **kwargs):
    """A data module with bytes for tokens, of ``texts`` or of a source."""
    source = Given(texts) if isinstance(texts, list) else texts
    options = {"max_length": 64, "batch_size": 4, "cache_dir": str(tmp_path / "cache"), **kwargs}
    return TextDataModule(source, tokenizer or Bytes(), **options)


def everything(data, split="train"):
    """The rows of a split in order, without padding, as (input_ids, target) lists where the target is a row's."""
    found = []
    for batch in data.loader(split, whole=True):
        for row in range(len(batch["index"])):
            real = batch["attention_mask"][row].bool()
            found.append({k: v[row][real].tolist() for k, v in batch.items() if hasattr(v, "dim") and v.dim() == 2})
    return found
