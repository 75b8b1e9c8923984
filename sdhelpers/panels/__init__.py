"""Panels of ipywidgets, one a module; `base` is what they share. The flipbook turns its pages in JavaScript."""
