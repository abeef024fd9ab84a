"""Every family of nets in every format: the same answers at any batch size and length, or a refusal by name."""

import dataclasses

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from kd_lightning.config.conf_dir import conf_dir
from kd_lightning.core.calls import TensorCall, TokenCall
from kd_lightning.deploy.formats.base import Format
from kd_lightning.deploy.formats.registry import FORMATS
from kd_lightning.deploy.inputs import TextNet, tensors_of
from kd_lightning.models.hub import hub
from kd_lightning.models.language.bilstm import BiLSTM
from kd_lightning.models.language.tiny import tiny_bert, tiny_gpt
from kd_lightning.models.mlp import mlp
from kd_lightning.models.mobilenetv2 import mobilenetv2
from kd_lightning.models.resnet import resnet8
from kd_lightning.models.resnet50 import resnet50_cifar
from kd_lightning.models.shufflenet import shufflev1, shufflev2
from kd_lightning.models.vgg import vgg8
from kd_lightning.models.wrn import wrn_16_1

# Name -> a small net for 3 classes and the size of its pictures.
PICTURES = {
    "resnet": (lambda: resnet8(3), 8),
    "wrn": (lambda: wrn_16_1(3), 8),
    "vgg": (lambda: vgg8(3), 32),
    "mobilenetv2": (lambda: mobilenetv2(3), 32),
    "shufflev1": (lambda: shufflev1(3), 32),
    "shufflev2": (lambda: shufflev2(3), 32),
    "resnet50": (lambda: resnet50_cifar(3), 32),
    "mlp": (lambda: mlp(3, 3, image_size=8, hidden=[8]), 8),
    "vit": (lambda: hub("vit_tiny_patch16_224", num_classes=3, img_size=32, patch_size=8, depth=2), 32),
}
SMALL = {"layers": 1, "width": 16}
TEXTS = {
    "bilstm": lambda: BiLSTM(50, 3, embedding=8, width=6, hidden=5),
    "bilstm_mean": lambda: BiLSTM(50, 3, embedding=8, width=6, hidden=5, layers=2, pooling="mean"),
    "bert": lambda: tiny_bert(50, "classification", 3, **SMALL),
    "bert_tags": lambda: tiny_bert(50, "token_classification", 3, **SMALL),
    "bert_causal": lambda: tiny_bert(50, "causal_lm", **SMALL),
    "gpt": lambda: tiny_gpt(50, "causal_lm", **SMALL),
    "gpt_classes": lambda: tiny_gpt(50, "classification", 3, **SMALL),
    "gpt_embedding": lambda: tiny_gpt(50, "embedding", **SMALL),
}
FORMATS_OF = {kind: [name for name, form in FORMATS.items() if kind in form.takes] for kind in ("image", "text")}
# What is written in every run of the suite, beside what tests/jobs/test_export.py and test_texts_deployed.py write.
QUICK = {("resnet", "torch_export"), ("bilstm", "onnx"), ("bilstm", "torch_export"), ("wrn", "onnx_int8"),
         ("bert", "huggingface")}  # fmt: skip


def pairs(nets, kind):
    """Every net in every format; most of them slow."""
    every = [(net, name) for net in nets for name in FORMATS_OF[kind]]
    return [pytest.param(*pair, marks=() if pair in QUICK else pytest.mark.slow, id="-".join(pair)) for pair in every]


def texts(size, length):
    """Tokens and masks; the first text is shorter, and the second is padded in front."""
    generator = torch.Generator().manual_seed(size + length)
    mask = torch.ones(size, length, dtype=torch.int64)
    mask[0, (length + 1) // 2 :] = 0
    mask[1:2, : length // 2] = 0
    return {"input_ids": torch.randint(1, 50, (size, length), generator=generator) * mask, "attention_mask": mask}


def written(name, net, examples, tmp_path):
    """What runs a file of the net."""
    form = FORMATS[name]
    form.make(net, examples, tmp_path / form.file)
    return form.runner(tmp_path / form.file)


def held(run, net, every, exact):
    """Every batch has PyTorch's answers, and alike in int8."""
    for inputs in every:
        with torch.no_grad():
            expected = net(*tensors_of(inputs))
        found = run(inputs)
        assert found.shape == expected.shape
        gap = float((found - expected).abs().max() / expected.abs().max())
        assert gap < (1e-4 if exact else 0.35), (gap, [tuple(t.shape) for t in tensors_of(inputs)])


@pytest.mark.parametrize(("family", "name"), pairs(PICTURES, "image"))
def test_pictures(family, name, tmp_path):
    torch.manual_seed(0)
    make, size = PICTURES[family]
    net, examples = make(), torch.randn(16, 3, size, size)
    with torch.no_grad():
        for _ in range(20 if not FORMATS[name].exact else 0):
            net(examples)  # statistics of its batch norms, without which nothing is left after so many layers
    net.eval()
    run = written(name, net, examples, tmp_path)
    held(run, net, [examples[:1], examples[1:3], examples[3:10]], FORMATS[name].exact)


@pytest.mark.parametrize(("family", "name"), pairs(TEXTS, "text"))
def test_texts(family, name, tmp_path):
    torch.manual_seed(0)
    inner, examples = TEXTS[family]().eval(), texts(8, 9)
    answer = "logits" if not family.endswith("embedding") else "sentence_embedding"
    net = TextNet(inner, TokenCall(), tuple(examples), answer).eval()
    refusal = FORMATS[name].refusal(net, "text")
    if refusal is not None:
        assert "no model of transformers" in refusal
        assert not hasattr(inner, "save_pretrained")
        return
    run = written(name, net, examples, tmp_path)
    held(run, net, [texts(size, length) for size in (1, 2, 7) for length in (6, 11)], FORMATS[name].exact)


def test_every_model_that_is_shipped_is_of_a_family_here():
    nets = [make for make, _ in PICTURES.values()] + list(TEXTS.values())
    names = {code for make in nets for code in make.__code__.co_names}
    here = {globals()[name].__module__ for name in names if callable(globals().get(name))}
    there = {OmegaConf.load(file).get("net", {}).get("_target_") for file in (conf_dir() / "model").glob("*.yaml")}
    assert {target.rpartition(".")[0] for target in there - {None}} == here | {"kd_lightning.models.language.hf"}


def test_a_net_of_transformers_is_known_before_it_is_trained():
    hugging = FORMATS["huggingface"]
    example = texts(2, 4)
    ours, theirs = (TextNet(TEXTS[name](), TokenCall(), tuple(example), "logits") for name in ("bilstm", "bert"))
    assert hugging.refusal(ours, "text") == (
        "There is no Hugging Face file of this student, BiLSTM: it is no model of transformers. Leave huggingface out"
        " of export.formats."
    )
    assert hugging.refusal(theirs, "text") is None
    assert "it is for texts" in hugging.refusal(resnet8(3), "image")
    assert "it is for images" in FORMATS["executorch"].refusal(ours, "text")


class Asks(nn.Module):
    """A net that looks at its numbers to decide what to do: no tracer can follow."""

    def forward(self, image):
        return image.mean((2, 3)) if float(image.sum()) > 0 else image.amax((2, 3))


class Fixed(nn.Module):
    """A net whose file would take one batch size only."""

    def forward(self, image):
        return image.flatten(1)[: int(image.shape[0])].view(2, -1)[:, :3]


@pytest.mark.parametrize("net", [Asks(), Fixed()], ids=lambda net: type(net).__name__)
def test_a_net_that_cannot_be_written_is_told_of_by_name(net, tmp_path):
    with pytest.raises(
        ValueError, match=rf"The torch.export file .* {type(net).__name__}.*Leave torch_export out"
    ) as e:
        FORMATS["torch_export"].make(net.eval(), torch.randn(4, 3, 8, 8), tmp_path / "student.pt2")
    assert len(str(e.value)) < 600


def test_a_file_that_fails_when_it_runs_is_told_of_with_the_shape():
    def load(path):
        def run(inputs):
            raise RuntimeError("Got invalid dimensions for input: image\nindex: 0")

        return run

    form = dataclasses.replace(FORMATS["onnx"], load=load)
    assert isinstance(form, Format)
    assert TensorCall().provides == ("logits",)
    with pytest.raises(
        ValueError, match=r"ONNX file .* does not take inputs of \(7, 3, 8, 8\)\. RuntimeError: Got inval"
    ):
        form.runner("x")(torch.zeros(7, 3, 8, 8))
