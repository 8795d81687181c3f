"""Figures of what models predict."""
