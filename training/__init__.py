"""Training: batches, epochs, checkpoints, several processes."""
