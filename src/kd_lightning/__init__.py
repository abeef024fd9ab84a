"""kd_lightning: knowledge distillation on PyTorch Lightning and Hydra.

Importing this package is instant: heavy libraries are imported by the modules that use them.
"""

__version__ = "0.1.0"
