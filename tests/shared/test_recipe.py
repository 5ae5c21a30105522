"""Recipes of earlier releases stay what they were, byte for byte."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.messages import UpdateHeader
from shared.recipe import LATER, Recipe

HEADER = {
    "id": "0" * 32,
    "node": "station-a",
    "base_version": 0,
    "base_digest": "a" * 64,
    "sha256": "b" * 64,
    "examples": 1,
    "steps": 1,
}

FIRST_RELEASE = (
    '{"rank":16,"alpha":32,"target_modules":"q_proj","modules_to_save":["action_out_proj","state_proj"],'
    '"batch":16,"draws":4,"steps":16,"learning_rate":0.002,"weight_decay":0.0001,"betas":[0.9,0.99],'
    '"clip":1.0,"seed":0,"never_train":[]}'
)
"""As it stands in the signed manifests of the first versions."""


def test_a_recipe_of_the_first_release_is_written_as_it_was_read() -> None:
    recipe = Recipe.model_validate_json(FIRST_RELEASE)
    assert recipe.model_dump_json() == FIRST_RELEASE
    assert (recipe.mu, recipe.mask_padding, recipe.keep_optimiser) == (0, False, True)
    assert (recipe.schedule, recipe.delay, recipe.optimiser) == ("cosine", 0, "adamw")


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "mu": st.floats(0, 10),
            "mask_padding": st.booleans(),
            "augmentations": st.integers(0, 16),
            "keep_optimiser": st.booleans(),
            "schedule": st.sampled_from(["cosine", "constant"]),
            "codec": st.sampled_from(["fp16-zstd", "int4-zstd"]),
            "delay": st.integers(0, 8),
            "optimiser": st.sampled_from(["adamw", "sgd"]),
            "betas": st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)),
        },
    )
)
def test_a_recipe_survives_the_wire(fields: dict[str, Any]) -> None:
    recipe = Recipe.model_validate(fields)
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
    written = recipe.model_dump(mode="json")
    assert {name for name in LATER if name in written} == {
        name for name in LATER if getattr(recipe, name) != getattr(Recipe(), name)
    }


@pytest.mark.parametrize(
    "wrong",
    [
        {"mu": -1},
        {"schedule": "linear"},
        {"codec": "int2-zstd"},
        {"mu": float("nan")},
        {"delay": -1},
        {"optimiser": "lion"},
        {"target_modules": "q_proj("},
        {"target_modules": r"(a)|b\1"},
        {"target_modules": ["q_proj"]},
    ],
)
def test_what_no_trainer_could_do_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Recipe.model_validate(wrong)


def test_the_digest_tells_recipes_apart_and_survives_the_wire() -> None:
    recipes = [Recipe(), Recipe(steps=17), Recipe(optimiser="sgd"), Recipe.model_validate_json(FIRST_RELEASE)]
    assert len({recipe.digest for recipe in recipes}) == 4
    for recipe in recipes:
        assert Recipe.model_validate_json(recipe.model_dump_json()).digest == recipe.digest
        UpdateHeader.model_validate(HEADER | {"recipe": recipe.digest})


def test_headers_of_earlier_releases_are_read_and_written_as_they_were() -> None:
    header = UpdateHeader.model_validate(HEADER)
    assert header.recipe == ""
    assert "recipe" not in header.model_dump(mode="json")
