"""The words of a command: quotes where Hydra's grammar needs them, and a bare word is answered with its key."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException

from kd_lightning.config.arguments import readable, unreadable


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("inputs=[bücher.png]", ["bücher.png"]),
        ("inputs=[it's.png]", ["it's.png"]),
        ("inputs=[a.png, Größe 1/it's b.png,'c, d.png']", ["a.png", "Größe 1/it's b.png", "c, d.png"]),
        ("inputs=[日本.png,a#1.png,b&c.png]", ["日本.png", "a#1.png", "b&c.png"]),
        ("data.root=~/Bücher (neu)/x", "~/Bücher (neu)/x"),
        ("name=über", "über"),
        ("+data.classes=[Äpfel,3,null]", ["Äpfel", 3, None]),
    ],
)
def test_words_of_any_language_are_read(argument, value):
    [mended] = readable([argument])
    assert OverridesParser.create().parse_override(mended).value() == value


@pytest.mark.parametrize(
    "argument",
    [
        "seed=0",
        "seeds=[0,1",
        "inputs=['a.png']",
        "run=a,b",
        "--cfg",
        "--config-dir=ü",
        "digits_resnet",
        "a={b",
        "x=1=2",
    ],
)
def test_other_arguments_are_left_as_they_are(argument):
    assert readable([argument]) == [argument]


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("digits_resnet", "'digits_resnet' is no key=value. Did you mean +experiment=digits_resnet?"),
        ("digit_resnet", "'digit_resnet' is no key=value, such as method=kd. Did you mean digits_resnet"),
        ("+experiment", "Did you mean +experiment=<name>, of cifar_resnet, digits_pruned"),
        ("resnet8", "Did you mean model@teacher=resnet8 or model@student=resnet8?"),
        ("model@student", "Did you mean model@student=<name>, of bilstm, hf"),
        ("dkd", "Did you mean method=dkd or +term@method.terms.<name>=dkd?"),
        ("predict", "Did you mean job=predict?"),
        ("seeds=[0,1", "cannot read seeds=[0,1. Lists are written seeds=[a,b]"),
    ],
)
def test_what_cannot_be_read_says_what_was_meant(argument, words):
    with pytest.raises(OverrideParseException) as error:
        OverridesParser.create().parse_overrides([argument])
    assert words in unreadable(error.value)


def test_other_errors_are_not_its_business():
    assert unreadable(ValueError("x")) is None
