"""Makes what the commands read, in the folder ``given``."""

import os
import sys
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, os.environ["RECORDED_TREE"])
from tests.jobs.checkpoints import bert, lines

folder = Path("given")
folder.mkdir()
bert(folder / "bert")
lines(folder / "plain.txt")
rows = "".join(f"it is {i} times {'good' if i % 2 else 'bad'},{i % 2}\n" for i in range(80))
(folder / "reviews.csv").write_text("text,label\n" + rows)
Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / "picture.png")
