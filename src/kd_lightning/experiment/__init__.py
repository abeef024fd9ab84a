"""Recipes times seeds: trained or found finished, compared."""
