"""Measurements behind this project. Run from a clone: ``python -m experiments.NAME``."""
