"""What a net cannot take or does not answer is said by name, with the shape and the line."""

import pytest
import torch

from kd_lightning.core.calls import TensorCall, TokenCall
from kd_lightning.models.anatomy.aliases import propose_aliases
from kd_lightning.models.hub import hub
from kd_lightning.models.language.tiny import tiny_bert
from kd_lightning.models.vgg import vgg8
from tests.models import odd

PICTURES = torch.randn(2, 3, 8, 8)


@pytest.mark.parametrize("make", [odd.Plain, odd.Mapped, odd.Named])
def test_logits_are_the_answer_or_named_in_it(make):
    torch.manual_seed(0)
    logits = TensorCall()(make(), {"image": PICTURES})["logits"]
    torch.manual_seed(0)
    assert torch.equal(logits, odd.Plain()(PICTURES))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (odd.OtherKey, r"OtherKey answers with dict \(out\), in which nothing is named 'logits'"),
        (odd.Pair, r"Pair answers with tuple of 2 parts, in which nothing is named 'logits'"),
        (odd.Summed, r"Summed answers with shape \(\): logits have a row for every sample"),
        (odd.Two, r"Two.forward takes \(x, y\), and is given one tensor.*a call of its own: student.call"),
        (
            odd.Broken,
            r"Broken cannot take a batch of shape \(2, 3, 8, 8\): RuntimeError.*odd.py, line \d+\).*image_size",
        ),
    ],
)
def test_what_is_no_answer_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        TensorCall()(make(), {"image": PICTURES})


def test_the_look_for_places_to_tap_says_the_same():
    # A net that no rule knows is run to find them: a reason that a `ValueError` gives is no trace then.
    assert propose_aliases("student", odd.Two(), PICTURES, {}) == {}


def test_pictures_of_a_size_that_a_net_does_not_take():
    small = torch.randn(2, 3, 4, 4)
    with pytest.raises(
        ValueError, match=r"VGG cannot take a batch of shape \(2, 3, 4, 4\).*too small.*data.image_size"
    ):
        TensorCall()(vgg8(3).eval(), {"image": small})
    vit = hub("vit_tiny_patch16_224", num_classes=3, img_size=8, patch_size=4, depth=1)
    with pytest.raises(
        ValueError, match=r"VisionTransformer cannot take .*Input height \(4\) doesn't match model \(8\)"
    ):
        TensorCall()(vit, {"image": small})


def test_texts_of_a_length_that_a_net_does_not_take():
    tokens = torch.ones(2, 9, dtype=torch.int64)
    net = tiny_bert(50, "classification", 3, layers=1, width=16, max_length=4)
    words = r"BertForSequenceClassification cannot take a batch of shape input_ids \(2, 9\).*net.max_length"
    with pytest.raises(ValueError, match=words):
        TokenCall()(net, {"input_ids": tokens, "attention_mask": tokens})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_net_of_half_precision_takes_pictures(dtype):
    assert TensorCall()(odd.Plain().to(dtype), {"image": PICTURES})["logits"].dtype == dtype
    assert TensorCall()(odd.Plain(), {"image": PICTURES})["logits"].dtype == torch.float32


def test_memory_that_is_full_is_not_the_nets_fault():
    class Full(odd.Plain):
        def forward(self, x):
            raise torch.OutOfMemoryError("full")

    with pytest.raises(torch.OutOfMemoryError):
        TensorCall()(Full(), {"image": PICTURES})


@pytest.mark.parametrize("given", [3, 2.5])
def test_a_tap_is_a_path(given):
    with pytest.raises(ValueError, match=rf"taps of the student: stages={given}: give the path of a module"):
        propose_aliases("student", odd.Plain(), PICTURES, {"stages": given})
