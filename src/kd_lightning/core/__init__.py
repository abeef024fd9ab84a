"""Roles make signals, terms make one named sum, taps reach any layer, rollouts may rewrite the batch: the Distiller."""
