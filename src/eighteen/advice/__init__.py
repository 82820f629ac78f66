"""Measurements, and what follows from them."""
