"""Measurements against peers, each a command that runs both in one go and ends in a line of JSON."""
