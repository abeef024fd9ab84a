"""What several losses compute: norms, masks, pieces of logits and maps, chunks of a head."""
