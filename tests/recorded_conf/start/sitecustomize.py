"""Python reads this at every start: an editable installation of another tree is taken off the path."""

import os
import sys

_own = os.environ["RECORDED_TREE"] + os.sep
sys.path[:] = [p for p in sys.path if p.startswith(_own) or not os.path.isfile(p + "/kd_lightning/__init__.py")]
