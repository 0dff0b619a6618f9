"""Protocols of face recognition: functions from embeddings to `metrics.Measurement`s, each module one."""
