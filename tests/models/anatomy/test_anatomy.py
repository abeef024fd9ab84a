"""The proposed taps exist, fire once, and are what their names say."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from kd_lightning.core.taps import Taps
from kd_lightning.models import mlp, mobilenetv2, resnet, resnet50, shufflenet, vgg, wrn
from kd_lightning.models.anatomy.find import anatomy
from kd_lightning.models.anatomy.places import Anatomy
from kd_lightning.models.hub import hub

FAMILIES = {
    "resnet8x4": resnet.resnet8x4,
    "resnet20": resnet.resnet20,
    "resnet50_cifar": resnet50.resnet50_cifar,
    "wrn_16_2": wrn.wrn_16_2,
    "vgg8": vgg.vgg8,
    "vgg13": vgg.vgg13,
    "mobilenetv2": mobilenetv2.mobilenetv2,
    "shufflev1": shufflenet.shufflev1,
    "shufflev2": shufflenet.shufflev2,
    "mlp": partial(mlp.mlp, in_channels=3, image_size=32),
}
# Name, options, number of stages, whether pre-activations and the last map are known.
HUB = [
    ("timm:resnet18", {}, 4, True, True),
    ("timm:resnet26", {}, 4, True, True),
    ("timm:vit_tiny_patch16_224", {"img_size": 32, "patch_size": 4}, 4, True, False),
    ("timm:deit_tiny_distilled_patch16_224", {"img_size": 32, "patch_size": 8}, 4, True, False),
    ("timm:mobilenetv3_small_050", {}, 4, True, False),
    ("timm:convnext_atto", {}, 4, True, False),
    ("timm:tf_efficientnet_lite0", {}, 5, True, True),
    ("timm:densenet121", {"growth_rate": 8}, 4, False, True),
    ("timm:regnety_002", {}, 4, True, True),
    ("timm:mixer_s32_224", {"img_size": 64}, 4, True, False),
    ("torchvision:resnet18", {}, 4, False, True),
    ("torchvision:mobilenet_v2", {}, 5, True, True),
    ("torchvision:mobilenet_v3_small", {}, 4, True, False),
    ("torchvision:efficientnet_b0", {}, 5, True, True),
    ("torchvision:shufflenet_v2_x0_5", {}, 3, False, True),
    ("torchvision:regnet_y_400mf", {}, 4, False, True),
    ("torchvision:convnext_tiny", {}, 4, True, False),
    ("timm:swin_tiny_patch4_window7_224", {"img_size": 64, "window_size": 2}, 0, False, False),
    ("torchvision:swin_t", {}, 0, False, True),
    ("torchvision:densenet121", {}, 5, False, False),
    ("torchvision:mnasnet0_5", {}, 5, False, True),
]
ACTIVATIONS = (nn.Identity(), nn.ReLU(), nn.ReLU6(), nn.SiLU(), nn.Hardswish())


def tapped(net: nn.Module, parts: Anatomy, images) -> tuple[dict, torch.Tensor]:
    """Tensors of every alias, and the logits; ``Taps`` refuses what does not fire exactly once."""
    entries = {name: places for name, places in parts.aliases().items() if name not in ("head", "preact_norms")}
    flat = [p for places in entries.values() for p in ([places] if isinstance(places, str) else places)]
    taps = Taps(net.eval(), flat)
    with torch.no_grad():
        output = net(**images) if isinstance(images, dict) else net(images)
    found = taps.take()
    values = {n: found[p] if isinstance(p, str) else [found[q] for q in p] for n, p in entries.items()}
    return values, getattr(output, "logits", output)


def check_embedding(net: nn.Module, parts: Anatomy, values: dict, logits: torch.Tensor) -> None:
    with torch.no_grad():
        torch.testing.assert_close(net.get_submodule(parts.head)(values["embedding"]), logits)
    if "last_map" in values:
        torch.testing.assert_close(values["last_map"].mean((2, 3)), values["embedding"])


@pytest.mark.parametrize("name", FAMILIES)
def test_own_families(name):
    torch.manual_seed(0)
    net = FAMILIES[name](num_classes=10)
    parts = anatomy(net)
    values, logits = tapped(net, parts, torch.randn(2, 3, 32, 32))
    check_embedding(net, parts, values, logits)
    assert values["embedding"].dim() == 2
    assert len(values["stages"]) == len(values["preacts"]) >= 2
    linear = name == "mobilenetv2"
    for stage, preact in zip(values["stages"], values["preacts"], strict=True):
        assert torch.equal(stage, preact if linear else preact.relu())
        assert preact.min() < 0
    for norm, preact in zip(parts.preact_norms, values["preacts"], strict=bool(parts.preact_norms)):
        module = net.get_submodule(norm)
        assert isinstance(module, nn.BatchNorm2d)
        assert module.num_features == preact.shape[1]
    if name != "mlp":
        sizes = [stage.shape[-1] for stage in values["stages"]]
        assert sizes == sorted(sizes, reverse=True)
        assert values["stem"].dim() == 4
        assert parts.last_map


@pytest.mark.parametrize(("name", "options", "stages", "preacts", "last_map"), HUB, ids=[row[0] for row in HUB])
def test_timm_and_torchvision(name, options, stages, preacts, last_map):
    torch.manual_seed(0)
    net = hub(name, num_classes=7, **options)
    check_known(net, options.get("img_size", 64), stages, preacts, last_map)


def test_timm_vgg():
    with torch.device("meta"):  # its linear layers take seconds to initialise
        net = hub("timm:vgg11_bn", num_classes=7)
        values, _ = tapped(net, anatomy(net), torch.randn(2, 3, 64, 64))
    sizes = [tuple(stage.shape[1:]) for stage in values["stages"]]
    assert sizes == [(128, 32, 32), (256, 16, 16), (512, 8, 8), (512, 4, 4)]
    assert anatomy(net).stem == "features.2"
    assert anatomy(net).preacts[0] == "features.6:in"
    assert anatomy(net).preact_norms == ("features.5", "features.12", "features.19", "features.26")


def check_known(net: nn.Module, size: int, stages: int, preacts: bool, last_map: bool) -> None:
    # Zeros at the end of residual branches and in heads would hide what is looked for.
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d | nn.Linear) and module.weight.count_nonzero() == 0:
            nn.init.uniform_(module.weight, -1, 1)
    images = torch.randn(2, 3, size, size)
    parts = anatomy(net, example=images)
    values, logits = tapped(net, parts, images)
    assert len(values.get("stages", [])) == stages
    assert parts.stem not in parts.stages
    assert bool(parts.preacts) == preacts
    assert bool(parts.last_map) == last_map
    for stage, preact in zip(values.get("stages", []), values.get("preacts", []), strict=preacts):
        assert preact.min() < 0
        assert any(torch.equal(stage, activation(preact)) for activation in ACTIVATIONS)
    for norm, preact in zip(parts.preact_norms, values.get("preacts", []), strict=bool(parts.preact_norms)):
        assert net.get_submodule(norm).num_features == preact.shape[1]
    assert values["embedding"].dim() == 2
    if not hasattr(net, "head_dist"):  # the logits are then the mean of two heads
        check_embedding(net, parts, values, logits)


def test_torchvision_transformer_takes_evenly_spaced_blocks():
    from torchvision.models import VisionTransformer

    net = VisionTransformer(image_size=32, patch_size=8, num_layers=6, num_heads=2, hidden_dim=16, mlp_dim=32)
    nn.init.normal_(net.heads.head.weight)
    parts = anatomy(net, blocks=3)
    assert parts.stages == tuple(f"encoder.layers.encoder_layer_{i}" for i in (1, 3, 5))
    values, logits = tapped(net, parts, torch.randn(2, 3, 32, 32))
    assert [tuple(stage.shape) for stage in values["stages"]] == [(2, 17, 16)] * 3
    check_embedding(net, parts, values, logits)


TINY = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}


def language_models():
    import transformers as hf

    llama = {**TINY, "vocab_size": 50, "num_key_value_heads": 2, "pad_token_id": 0}
    gpt = {"n_embd": 16, "n_layer": 4, "n_head": 2, "vocab_size": 50, "bos_token_id": 0, "eos_token_id": 0}
    bert = {**TINY, "vocab_size": 50}
    return {
        "bert": (lambda: hf.BertForSequenceClassification(hf.BertConfig(**bert)), "classifier", 2),
        "roberta": (lambda: hf.RobertaForSequenceClassification(hf.RobertaConfig(**bert)), "classifier.out_proj", 2),
        "masked": (lambda: hf.BertForMaskedLM(hf.BertConfig(**bert)), "cls.predictions.decoder", 3),
        "gpt2": (lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**gpt)), "lm_head", 3),
        "llama": (lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**llama)), "lm_head", 3),
    }


@pytest.mark.parametrize("name", ["bert", "roberta", "masked", "gpt2", "llama"])
def test_transformers_language_models(name):
    make, head, dims = language_models()[name]
    torch.manual_seed(0)
    net = make()
    parts = anatomy(net)
    assert parts.head == head
    values, logits = tapped(net, parts, {"input_ids": torch.randint(3, 50, (2, 6))})
    assert [tuple(stage.shape) for stage in values["stages"]] == [(2, 6, 16)] * 4
    assert values["stem"].shape == (2, 6, 16)
    assert values["embedding"].dim() == dims
    check_embedding(net, parts, values, logits)


def test_transformers_image_model_and_base_model_without_head():
    import transformers as hf

    config = hf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 32], depths=[1, 1, 1], layer_type="basic")
    net = hf.ResNetForImageClassification(config)
    parts = anatomy(net)
    values, logits = tapped(net, parts, torch.randn(2, 3, 64, 64))
    assert [tuple(stage.shape[1:]) for stage in values["stages"]] == [(8, 16, 16), (16, 8, 8), (32, 4, 4)]
    check_embedding(net, parts, values, logits)
    parts = anatomy(hf.BertModel(hf.BertConfig(**TINY, vocab_size=50)), example={"input_ids": torch.ones(1, 3).long()})
    assert (parts.head, parts.embedding, len(parts.stages)) == ("", "", 4)
    assert "head" not in parts.aliases()


class Plain(nn.Module):
    """Unknown to every rule; the expanding convolution of ``down`` still has the old resolution."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), self.down(4, 8), self.down(8, 8))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.neck = nn.Linear(8, 6)
        self.out = nn.Linear(6, 5)

    @staticmethod
    def down(width: int, out: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(width, 9, 1), nn.Conv2d(9, out, 3, stride=2, padding=1))

    def forward(self, x):
        return self.out(self.neck(self.pool(self.body(x)).flatten(1)).relu())


def test_unknown_network_is_traced_with_an_example():
    net = Plain().train()
    assert anatomy(net) == Anatomy(embedding="out:in", head="out")
    parts = anatomy(net, example=torch.randn(2, 3, 16, 16))
    assert parts.stages == ("body.1", "body.2", "body")
    assert (parts.stem, parts.head, parts.embedding) == ("body.0", "out", "out:in")
    assert all(module.training for module in net.modules())
    values, logits = tapped(net, parts, torch.randn(2, 3, 16, 16))
    check_embedding(net, parts, values, logits)


def test_unknown_stack_of_equal_blocks():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)
    net = nn.Sequential(encoder, nn.Flatten(), nn.Linear(40, 3))
    parts = anatomy(net, example=torch.randn(2, 5, 8), blocks=2)
    assert parts.stages == ("0.layers.2", "0.layers.5")
    assert parts.head == "2"


def test_a_network_describes_itself():
    class Own(Plain):
        def anatomy(self) -> Anatomy:
            return Anatomy(head="out", stages=("body.2",))

    assert anatomy(Own()).stages == ("body.2",)


def test_nothing_to_propose_says_what_to_do():
    with pytest.raises(ValueError, match=r"taps\.embedding"):
        anatomy(nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1)))
