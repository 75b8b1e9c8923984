"""Helpers for the chapters of the companion: what a second chapter needs too, and nothing else.

Import the rooms by name (`from sdhelpers import models`); importing the package itself loads nothing.
"""

__version__ = "0.1.0"
