"""The recipes: one module a part, each with a `RECIPE` (recipe.py) and a config of the same name."""
