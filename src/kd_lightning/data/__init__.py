"""Data: sources read arrays, the data module owns splits, order, batches and augmentation."""
