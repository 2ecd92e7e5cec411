"""Clips and captions: drawn by rule, or read from a folder; encoded once into latents."""
