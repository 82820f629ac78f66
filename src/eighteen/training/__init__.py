"""From batches to checkpoints and events."""
