"""Recognisers to compare with: pixels, PCA, discriminant analysis, other people's networks."""
