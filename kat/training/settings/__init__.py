"""From a recipe and given settings to a run of which everything is decided.

``config.py`` declares the settings; it stands beside this folder, because the tasks import it.
"""
