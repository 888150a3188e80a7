"""Recipes: YAML files as checked values, every fault reported at once."""
