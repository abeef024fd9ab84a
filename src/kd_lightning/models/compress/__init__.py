"""Nets made smaller or faster without another training: folded, pruned, rounded to int8."""
