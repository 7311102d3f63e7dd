"""The flags of ``image build`` as a recipe."""

from __future__ import annotations

from vmctl.errors import UsageError
from vmctl.images.recipe import Base, BuildRecipe
from vmctl.suggest import did_you_mean


def parse_recipe(base: str, suite: str, include: list[str]) -> BuildRecipe:
    """Packages may be separated by commas too. Raises UsageError for an unknown base."""
    if base not in list(Base):
        raise UsageError(f"unknown base '{base}'", hint=did_you_mean(base, Base, "one of " + ", ".join(Base)))
    packages = [package for entry in include for package in entry.split(",") if package]
    if base != Base.DEBIAN and (suite or packages):
        raise UsageError("--suite and --include are for '--from debian'")
    return BuildRecipe(base=Base(base), suite=suite, include=tuple(packages))
