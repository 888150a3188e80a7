"""Models: the step, the memory and the backbones that share them (torch only)."""
