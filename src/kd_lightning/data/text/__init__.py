"""Texts: rows of tokens, labels, masks, packing, tokenizers."""
