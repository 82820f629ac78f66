"""Plans to machines: what they cost now, and training on those that one has."""
