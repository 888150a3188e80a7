"""Logs as Polars frames: checked, ordered, filtered, numbered, split, written as prepared data. Lazy in, lazy out."""
