"""Families of nets, and any net of timm, torchvision and transformers by name."""
