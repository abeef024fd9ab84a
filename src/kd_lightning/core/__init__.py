"""The engine: roles, taps, terms and the LightningModule that joins them."""
