"""Language models: those of transformers, tiny ones from numbers, and a BiLSTM."""
