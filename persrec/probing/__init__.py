"""What old events of a log are worth to a linear model, before any training."""
