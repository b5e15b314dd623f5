"""Recipes by name: complete configurations, each with what it trains on and how its bundle is made."""

from collections.abc import Callable, Mapping

from training.recipes import demo, live, papers
from training.recipes.base import Options, Recipe

__all__ = ["RECIPES", "Options", "Recipe"]

RECIPES: Mapping[str, Callable[[], Recipe]] = {"demo": demo.demo, **papers.recipes(), **live.recipes()}
