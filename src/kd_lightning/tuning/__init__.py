"""Tuning: ``hydra/sweeper=tune`` searches the settings of a method with Optuna, judged on validation only."""
