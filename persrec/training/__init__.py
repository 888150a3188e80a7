"""Training: the objective, the Lightning module and trainer, and what surrounds a fit."""
