"""Synthetic occluders and light."""
