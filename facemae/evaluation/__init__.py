"""Numbers from embeddings: metrics, statistics, protocols, controls."""
