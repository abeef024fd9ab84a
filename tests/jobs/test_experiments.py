"""Every shipped experiment runs from beginning to end, in a smoke version on data of its layout."""

import pytest

from kd_lightning.conf_dir import conf_dir
from tests.data.test_cifar import cifar100

# Smaller nets and data where the real ones would take long on a CPU.
SMALL = {"cifar_resnet": ["model@teacher=resnet8", "model@student=resnet8", "data.batch_size=16", "data.root=data"]}


@pytest.mark.parametrize("name", sorted(p.stem for p in (conf_dir() / "experiment").glob("*.yaml")))
def test_runs(name, cli, tmp_path):
    cifar100(tmp_path / "data")
    small = SMALL.get(name, [])
    outcome = cli(f"+experiment={name}", "trainer=smoke", "seeds=null", "compare.latency=false", *small)
    assert outcome.code == 0, outcome.text
    assert (outcome.folder / "report.html").is_file()
