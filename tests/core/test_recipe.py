"""Recipes: YAML plus key=value into a frozen dataclass, and a sentence for every mistake."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from solfa.core import recipe
from solfa.core.errors import UserError


@dataclass(frozen=True)
class Inner:
    rate: float = 0.1
    sizes: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class Outer:
    name: str = "x"
    steps: int = 10
    fast: bool = False
    limit: int | None = None
    inner: Inner = field(default_factory=Inner)
    shares: dict[str, float] = field(default_factory=dict)


def test_defaults_file_and_overrides(tmp_path: Path) -> None:
    assert recipe.load(Outer, None, []) == Outer()
    path = tmp_path / "r.yaml"
    path.write_text("steps: 20\ninner:\n  sizes: [3, 4, 5]\nshares: {a: 1, b: 0.5}\n")
    got = recipe.load(Outer, path, ["inner.rate=1e-3", "fast=true", "limit=7", "name=y"])
    assert got == Outer("y", 20, True, 7, Inner(0.001, (3, 4, 5)), {"a": 1.0, "b": 0.5})
    assert recipe.load(Outer, path, ["limit=null"]).limit is None
    assert recipe.load(Outer, path, ["name=no"]).name == "no"


@pytest.mark.parametrize(
    ("text", "words", "told"),
    [
        ("stepz: 3", [], "unknown setting 'stepz'.*known: name, steps"),
        ("", ["inner.ratio=3"], "unknown setting 'ratio'"),
        ("", ["steps"], "is not key=value"),
        ("", ["steps=many"], "steps should be int"),
        ("", ["steps=true"], "steps should be int"),
        ("", ["steps=1.5"], "steps should be int"),
        ("", ["fast=1"], "fast should be bool"),
        ("", ["inner.rate=fast"], "rate should be float"),
        ("", ["inner.sizes=[a]"], "sizes should be int"),
        ("", ["inner.sizes=3"], "sizes should be"),
        ("", ["inner=3"], "inner should be"),
        ("", ["steps.more=3"], "steps"),
        ("", ["name=[1"], "not valid YAML"),
        ("{", [], "not valid YAML"),
        ("- 1", [], "should be a mapping"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path: Path, text: str, words: list[str], told: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=told) as caught:
        recipe.load(Outer, path, ["steps=5", *words])
    assert "\n" not in str(caught.value)


def test_a_recipe_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "gone.yaml", tmp_path):
        with pytest.raises(UserError, match="cannot be read"):
            recipe.load(Outer, path, [])
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError):
        recipe.load(Outer, tmp_path / "binary.yaml", [])


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[2] / "docs" / "recipes").glob("*.yaml")), ids=lambda path: path.name
)
def test_a_recipe_that_ships_fits_its_settings(path: Path) -> None:
    """Unknown keys are errors, so a recipe in the repository cannot rot."""
    from solfa.omni.training.omni_recipe import OmniRecipe
    from solfa.tokenizers.training.train_codec import CodecRecipe
    from solfa.tts.training.train_tts import TTSRecipe

    kinds: dict[str, type] = {"codec": CodecRecipe, "omni": OmniRecipe, "tts": TTSRecipe}
    recipe.load(kinds[path.stem.split("-")[0]], path, [])
