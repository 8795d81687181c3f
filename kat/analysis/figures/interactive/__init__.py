"""Interactive figures of the reports, by plotly.

The page sets the colors of text, axes and background, for light and dark mode.
"""
