"""Pictures and feature vectors: sources, preprocessing, augmentation as a function of (seed, view, index)."""
