"""A results folder in tables, charts, claims, the page."""
