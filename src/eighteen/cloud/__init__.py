"""Plans to machines: what they cost now."""
