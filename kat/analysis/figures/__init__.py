"""Figures as files, by matplotlib; :mod:`.interactive` has those of the HTML pages."""
