"""Figures, by matplotlib: as files, and as SVG on the pages, with titles to hover."""
