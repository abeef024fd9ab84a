"""A chosen part of the training texts."""

import torch

from tests.data.text.given import Given, module


def test_chosen_texts_keep_their_own_targets_and_get_new_ones(tmp_path):
    texts = [f"text {i}" for i in range(40)]
    labels = [None if i % 4 == 0 else i % 2 for i in range(40)]
    data = module(Given(texts, label=labels), tmp_path)
    before = data.texts("train")
    index = torch.tensor([1, 3, 4, 9, 20])
    new = torch.tensor([1, 0, 1, 1, 0])
    held = data.targets("test").tolist()
    data.choose(index, labels=new)
    assert data.texts("train") == [before[i] for i in index]
    assert data.targets("train").tolist() == new.tolist()
    assert data.targets("test").tolist() == held
    batch = next(iter(data.loader("train", train=True)))
    for row, index_in_split in enumerate(batch["index"]):
        own = batch["input_ids"][row][batch["attention_mask"][row].bool()].tolist()[1:-1]
        assert bytes(own).decode() == data.texts("train")[index_in_split]
        assert batch["target"][row] == new[index_in_split]
