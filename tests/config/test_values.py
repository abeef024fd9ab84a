"""Raw configuration becomes values, and back."""

import pytest
from hydra import compose
from omegaconf import OmegaConf

from kd_lightning.config.schema import Config, Method
from kd_lightning.config.values import plain, read_settings, settings_of, values, write_settings

pytestmark = pytest.mark.usefixtures("composing")


def test_values_say_what_the_configuration_says():
    raw = compose("config", ["+experiment=digits_resnet", "+trainer.plugins=[a]"])
    settings = settings_of(raw)
    assert isinstance(settings, Config)
    assert isinstance(settings.baseline, Method)
    assert settings.scheduler.factory["T_max"] == raw.trainer.max_epochs
    assert settings.trainer.plugins == ["a"]
    assert plain(settings) == OmegaConf.to_container(raw, resolve=True)


def test_what_is_not_given_or_not_there_is_an_error_only_where_it_is_used():
    settings = settings_of(compose("config", ["model@teacher=timm", "data=synthetic_text"], return_hydra_config=False))
    assert settings.teacher.net["name"] == "???"
    assert settings.student.net["in_channels"] == "${data.channels}"


def test_what_was_written_is_read_again(tmp_path):
    raw = compose("config", ["+experiment=digits_resnet"])
    content = plain(settings_of(raw))
    write_settings(content, tmp_path / "config.yaml")
    assert plain(read_settings(tmp_path / "config.yaml")) == content


def test_runs_of_before_and_of_later_are_read(tmp_path):
    (tmp_path / "config.yaml").write_text(
        "later: 1\n"
        "trainer: {max_epochs: 3, later: 2}\n"
        "baseline: {name: ce, terms: {}}\n"
        "student: {name: x, net: {_target_: kd_lightning.data.module.KDDataModule}, taps: {mine: [a]}}\n"
    )
    settings = read_settings(tmp_path / "config.yaml")
    assert (settings.trainer.max_epochs, settings.trainer.precision) == (3, "32-true")
    assert isinstance(settings.baseline, Method)
    assert settings.student.net["_target_"] == "kd_lightning.data.images.module.KDDataModule"
    assert settings.student.taps == {"mine": ["a"]}
    assert plain(settings)["later"] == 1
    assert plain(settings)["trainer"]["later"] == 2


def test_lists_and_numbers_are_themselves():
    assert values(OmegaConf.create({"a": [1, {"b": "${c}"}], "c": None})) == {"a": [1, {"b": None}], "c": None}
