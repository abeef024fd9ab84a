"""The wheel alone is enough: built, installed elsewhere, run from an empty folder."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_an_installed_wheel_runs_an_experiment_from_an_empty_folder(tmp_path):
    wheels, site, empty = tmp_path / "wheels", tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(wheels), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    wheel = next(wheels.glob("kd_lightning-*.whl"))
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)

    env = {**os.environ, "PYTHONPATH": str(site)}
    where = [sys.executable, "-c", "import kd_lightning; print(kd_lightning.__file__)"]
    found = subprocess.run(where, cwd=empty, env=env, check=True, capture_output=True, text=True).stdout
    assert found.startswith(str(site))
    arguments = ["+experiment=digits_resnet", "trainer=smoke", "seeds=null", "model@teacher=resnet8"]
    command = [sys.executable, "-m", "kd_lightning", *arguments, "compare.latency=false"]
    done = subprocess.run(command, cwd=empty, env=env, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "student + kd" in done.stdout
    assert len(list(empty.glob("outputs/digits_resnet/*/report.html"))) == 1
