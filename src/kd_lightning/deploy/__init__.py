"""The student outside: exported, checked against PyTorch, described, asked."""
