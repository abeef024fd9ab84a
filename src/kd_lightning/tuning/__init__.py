"""The search: one Optuna study a method, on validation only."""
