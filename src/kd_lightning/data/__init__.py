"""Splits, order, loaders, the choice of samples: batches that any start finds again, whatever a sample is."""
