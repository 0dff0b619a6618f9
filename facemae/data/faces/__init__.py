"""Aligned faces: shards, cache, split, pairs, batches."""
