"""Weights from and to timm and Hugging Face."""
