#!/usr/bin/env bash
# How the results of before were made, pictures.npz and store/: with the first version of the code.
#
#     git worktree add /tmp/before 7a8958b
#     PYTHON=$PWD/.venv/bin/python tests/experiment/before/make.sh /tmp/before
#     git worktree remove /tmp/before
#
# They are not to be made again with a later version: that they are old is what they are for. The commands are those of
# commands.txt, of which every line is the name of a command (or "every") and one argument; the test runs the same ones.
# What decides a hash is whole numbers, or written there (data.mean, data.std): no machine's rounding is in it. WORK is
# the folder to work in, where all that was written can be looked at; store/ has what the test needs of it.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
tree=$(cd "$1" && pwd)
python=${PYTHON:-python}
export PYTHONPATH=$tree/src OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 PYTHONDONTWRITEBYTECODE=1
cd "${WORK:-$(mktemp -d)}"

"$python" - "$tree" <<'END'
import pathlib, sys
import numpy as np
import kd_lightning

assert pathlib.Path(kd_lightning.__file__).is_relative_to(sys.argv[1]), kd_lightning.__file__
draw = np.random.default_rng(0)
y = np.arange(96) % 3
x = draw.integers(0, 96, (96, 1, 8, 8), dtype=np.uint8) + (60 * y).astype(np.uint8)[:, None, None, None]
np.savez_compressed("pictures.npz", x=x, y=y)
END

command() { # its name; into a folder of a fixed name
  local arguments
  mapfile -t arguments < <(sed -nE "s/^(every|$1) //p" "$here/commands.txt")
  "$python" "${program[@]}" "${arguments[@]}" "hydra.run.dir=outputs/$1/2026-01-01_00-00-00"
}

program=(-m kd_lightning)
command train
command study
command signals

# Ctrl-C in the second of three epochs, of four steps each.
cat >interrupted.py <<'END'
import os, signal
from kd_lightning.__main__ import main
from kd_lightning.core.distiller import Distiller

step = Distiller.training_step


def training_step(self, batch, batch_idx):
    if self.global_step == 6:
        os.kill(os.getpid(), signal.SIGINT)
    return step(self, batch, batch_idx)


Distiller.training_step = training_step
main()
END
program=(interrupted.py)
code=0
command unfinished || code=$?
[ $code = 130 ]

# What the test needs: of the finished ones all that is read of them, of the unfinished one what it goes on from.
store=$here/store
rm -rf "$store"
mkdir "$store"
cp pictures.npz "$here"
find outputs/{teachers,studies,cache,train} -type f -not -path '*/.hydra/*' \
  \( -name arm.json -o -name status.json -o -name store.json -o -name config.yaml -o -name '*.safetensors' \) \
  -exec cp --parents {} "$store" \;
cp --parents outputs/unfinished/*/status.json outputs/unfinished/*/checkpoints/interrupted.ckpt "$store"
mv "$store"/outputs/* "$store"
rmdir "$store/outputs"
find "$store" -name status.json -exec sed -i -E '/"(host|pid)":/d' {} + # of the machine, not of the run
find "$store" -type f | sort
du -sb "$store"
