"""Text: sources, tokenizers, rows of tokens, and the data module that makes batches of them."""
