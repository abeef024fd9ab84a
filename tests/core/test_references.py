import pytest

from kd_lightning.core.references import Reference


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("student.logits", Reference("student", "logits")),
        ("teacher.stages[-1]", Reference("teacher", "stages", -1)),
        ("student.layer2.0.conv1:in", Reference("student", "layer2.0.conv1:in")),
        ("teacher.head!module", Reference("teacher", "head", None, "module")),
        ("student.stages[0]!detach", Reference("student", "stages", 0, "detach")),
    ],
)
def test_parse_and_print(text, expected):
    assert Reference.parse(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize("text", ["student", "student.", "a b.c", "student.x[y]", "student.x!frozen"])
def test_what_is_no_reference_is_refused(text):
    with pytest.raises(ValueError, match="is not a reference"):
        Reference.parse(text)
