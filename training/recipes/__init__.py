"""Recipes by name."""

from training.recipes.demo import demo

RECIPES = {"demo": demo}
