"""Related pairs to weights: batches, the Lightning module, cold recall, checkpoints."""
