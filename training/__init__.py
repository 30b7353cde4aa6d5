"""Training and evaluation: batches, epochs, metrics, checkpoints, several processes."""
