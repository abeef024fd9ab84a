"""Language models: tiny ones, LSTMs, any of transformers; adapters, quantised teachers."""
