"""Verification of the rational function: every backend against exact values."""
