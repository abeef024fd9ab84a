"""Pure functions that measure: cost, energy, calibration, robustness, likeness; and how numbers are written."""
