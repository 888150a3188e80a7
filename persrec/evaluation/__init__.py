"""Evaluation: metrics of trained models with their intervals, comparisons and tables."""
