"""Measuring generated clips against drawn ones, without any pretrained network; see README.md here."""
