"""Hydra's door to kd_lightning's tuner: ``hydra/sweeper=tune``. Nothing heavy here: Hydra imports it at every start."""
