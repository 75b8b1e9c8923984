"""Helpers for the chapters of the companion. Its rooms, and how to add a chapter or a model: README.md beside this.

Import the rooms by name (`from sdhelpers import models`); importing the package itself loads nothing.
"""

__version__ = "0.1.0"
