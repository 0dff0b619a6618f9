"""The gallery: who is enrolled, with which templates, and who of them a face looks like."""
