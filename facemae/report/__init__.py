"""A results folder read and told: tables, charts, claims, the page."""
