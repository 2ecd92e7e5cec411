"""Stands for VBench-I2V, which the package vbench brings along."""

from vbench import VBench


class VBenchI2V(VBench):
    needs_image = True
