"""From a person's pictures to batches on a device: sources -> pack -> shards -> loader -> augment."""
