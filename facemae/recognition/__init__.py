"""Recognising people: find, align, embed, search and decide; plain Python for the app and the commands."""
