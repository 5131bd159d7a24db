"""A made-up recipe catalogue and its users, as large as wished and the same on every machine.

Here: what recipes and users are like. Both are endless sequences: recipe 17 is the same dish in a catalogue of 20
and of 20,000, so that runs of the simulator with different seeds and sizes speak of the same things.
Not here: when they appear or what happens to them (simulate.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kurashiru_pipeline.core.segments import VALUE_TAGS
from kurashiru_pipeline.local.landing import RECIPE_SCHEMA, USER_SCHEMA
from kurashiru_pipeline.local.lines import hexadecimal

AUTHOR_TYPES = ("kurashiru_chef", "cooking_expert", "general_user")
DEVICES: tuple[tuple[str, str | None], ...] = (
    ("ios", "12.4.0"),
    ("ios", "12.3.1"),
    ("android", "12.4.0"),
    ("android", "12.2.0"),
    ("web", None),
)
MEALS = ("breakfast", "lunch", "dinner", "snack")
_AUTHOR_COUNT = 400
_FAVOURITES = 3


@dataclass(frozen=True)
class Ingredient:
    """A main ingredient: its family decides which dishes it goes into.

    Attributes:
        weight: how often it is cooked with, relative to the others.
        cost_yen: of a serving.
        calories_kcal: of a serving.
        tag: index into VALUE_TAGS of what its recipes are often liked for, or None.
    """

    name: str
    family: str
    weight: float
    cost_yen: int
    calories_kcal: int
    tag: int | None = None


@dataclass(frozen=True)
class Dish:
    """A way to cook: how it may be flavoured, what it adds to cost and calories, and indices into VALUE_TAGS."""

    name: str
    flavours: tuple[str, ...]
    minutes: int
    cost_yen: int
    calories_kcal: int
    tags: tuple[int, ...] = ()


_TIME, _SAVINGS, _MICROWAVE, _LIGHT, _BABY, _PARTY = range(len(VALUE_TAGS))
INGREDIENTS = (
    Ingredient("pork belly", "meat", 9, 150, 330),
    Ingredient("minced pork", "meat", 7, 110, 240, _SAVINGS),
    Ingredient("chicken thigh", "meat", 10, 130, 220),
    Ingredient("chicken breast", "meat", 8, 90, 130, _LIGHT),
    Ingredient("chicken wings", "meat", 3, 120, 230, _PARTY),
    Ingredient("sliced beef", "meat", 5, 280, 310),
    Ingredient("bacon", "meat", 3, 110, 240, _TIME),
    Ingredient("salmon", "fish", 6, 200, 160),
    Ingredient("mackerel", "fish", 3, 140, 230),
    Ingredient("yellowtail", "fish", 2, 230, 220),
    Ingredient("cod", "fish", 2, 180, 80, _LIGHT),
    Ingredient("shrimp", "fish", 4, 220, 90, _PARTY),
    Ingredient("canned tuna", "fish", 4, 90, 110, _TIME),
    Ingredient("tofu", "protein", 7, 50, 90, _SAVINGS),
    Ingredient("egg", "protein", 9, 40, 140, _TIME),
    Ingredient("fried tofu", "protein", 2, 40, 110, _SAVINGS),
    Ingredient("natto", "protein", 2, 40, 100),
    Ingredient("cabbage", "vegetable", 7, 60, 30, _SAVINGS),
    Ingredient("napa cabbage", "vegetable", 4, 60, 20),
    Ingredient("eggplant", "vegetable", 5, 80, 30),
    Ingredient("potato", "vegetable", 6, 60, 110, _SAVINGS),
    Ingredient("pumpkin", "vegetable", 4, 80, 90, _BABY),
    Ingredient("daikon radish", "vegetable", 4, 60, 20, _LIGHT),
    Ingredient("spinach", "vegetable", 3, 90, 20, _BABY),
    Ingredient("broccoli", "vegetable", 4, 100, 40, _LIGHT),
    Ingredient("bean sprouts", "vegetable", 4, 20, 20, _SAVINGS),
    Ingredient("carrot", "vegetable", 3, 40, 40, _BABY),
    Ingredient("tomato", "vegetable", 4, 110, 30),
    Ingredient("shimeji mushrooms", "vegetable", 3, 80, 20, _LIGHT),
    Ingredient("green pepper", "vegetable", 3, 60, 20),
    Ingredient("cucumber", "vegetable", 3, 60, 15, _LIGHT),
    Ingredient("lotus root", "vegetable", 2, 110, 70),
    Ingredient("rice", "staple", 6, 60, 330),
    Ingredient("udon noodles", "staple", 5, 50, 280, _TIME),
    Ingredient("soba noodles", "staple", 2, 70, 270),
    Ingredient("spaghetti", "staple", 6, 60, 340),
    Ingredient("somen noodles", "staple", 2, 60, 300, _TIME),
    Ingredient("bread", "bakery", 5, 60, 240, _TIME),
    Ingredient("pancake mix", "bakery", 3, 60, 280),
    Ingredient("yogurt", "sweet", 3, 60, 70, _LIGHT),
    Ingredient("banana", "sweet", 3, 50, 90, _BABY),
    Ingredient("apple", "sweet", 2, 90, 80),
    Ingredient("strawberry", "sweet", 2, 160, 40, _PARTY),
    Ingredient("chocolate", "sweet", 3, 120, 280, _PARTY),
    Ingredient("matcha", "sweet", 2, 90, 120),
    Ingredient("sweet potato", "sweet", 3, 80, 140, _BABY),
)
_FRIED = ("Garlic soy", "Oyster sauce", "Sweet and spicy", "Ginger", "Butter soy", "Salt and lemon", "Spicy miso")
_SIMMERED = ("Tender", "Home-style", "Sweet and savoury", "Ginger", "Sukiyaki-style", "Slow-cooked")
_STEAMED = ("Ponzu", "Salt and lemon", "Sesame sauce", "Butter soy", "Kimchi", "Yuzu pepper")
_BAKED = ("Herb", "Cheesy", "Garlic butter", "Miso mayonnaise", "Crispy", "Lemon")
_BROTH = ("Ginger", "Hearty", "Sesame", "Spicy", "Clear", "Soy milk", "Miso")
_DRESSED = ("Crunchy", "Sesame", "Plum and shiso", "Ponzu", "Korean-style", "Creamy", "Refreshing")
_BOWL = ("Garlic soy", "Sweet and spicy", "Spring onion and salt", "Teriyaki", "Soy butter", "Spicy miso")
_CREAMY = ("Rich", "Miso", "Golden", "Light", "Mustard", "Soy milk")
_GENTLE = ("Smooth", "Gentle", "First", "Velvety", "Mild")
_SWEET = ("Fluffy", "Rich", "No-bake", "Moist", "Caramel", "Brown sugar", "Café-style", "Kinako", "Little")
_DISHES = {
    "meat": (
        Dish("stir-fry", _FRIED, 15, 40, 120, (_TIME,)),
        Dish("curry", _SIMMERED, 45, 60, 280),
        Dish("rice bowl", _BOWL, 20, 50, 350, (_TIME,)),
        Dish("stew", _SIMMERED, 40, 50, 120),
        Dish("microwave steam", _STEAMED, 12, 30, 60, (_MICROWAVE, _TIME)),
        Dish("sheet-pan roast", _BAKED, 50, 70, 160, (_PARTY,)),
        Dish("hot pot", _BROTH, 30, 120, 140, (_PARTY,)),
        Dish("soup", _BROTH, 25, 40, 80, (_LIGHT,)),
        Dish("croquettes", _BAKED, 50, 60, 300),
    ),
    "fish": (
        Dish("meunière", _BAKED, 20, 50, 130),
        Dish("foil bake", _BAKED, 25, 50, 70, (_LIGHT,)),
        Dish("miso simmer", _SIMMERED, 30, 40, 110),
        Dish("carpaccio", _DRESSED, 15, 90, 90, (_PARTY, _TIME)),
        Dish("microwave steam", _STEAMED, 12, 40, 50, (_MICROWAVE, _TIME)),
        Dish("nanban marinade", _DRESSED, 35, 60, 150),
        Dish("rice bowl", _BOWL, 15, 60, 340, (_TIME,)),
    ),
    "protein": (
        Dish("stir-fry", _FRIED, 12, 50, 110, (_TIME, _SAVINGS)),
        Dish("soup", _BROTH, 15, 40, 60, (_LIGHT, _SAVINGS)),
        Dish("gratin", _CREAMY, 40, 90, 240),
        Dish("salad", _DRESSED, 10, 60, 70, (_LIGHT, _TIME)),
        Dish("rice bowl", _BOWL, 10, 50, 340, (_TIME, _SAVINGS)),
        Dish("soft porridge", _GENTLE, 25, 30, 150, (_BABY,)),
    ),
    "vegetable": (
        Dish("stir-fry", _FRIED, 12, 50, 100, (_TIME, _SAVINGS)),
        Dish("salad", _DRESSED, 10, 50, 60, (_LIGHT, _TIME)),
        Dish("miso soup", _BROTH, 15, 30, 50, (_SAVINGS,)),
        Dish("braise", _SIMMERED, 25, 40, 70),
        Dish("microwave steam", _STEAMED, 8, 30, 40, (_MICROWAVE, _TIME)),
        Dish("quick pickles", _DRESSED, 10, 30, 30, (_LIGHT,)),
        Dish("gratin", _CREAMY, 40, 100, 260, (_PARTY,)),
        Dish("purée", _GENTLE, 20, 30, 60, (_BABY,)),
        Dish("pancakes", _FRIED, 25, 60, 250),
    ),
    "staple": (
        Dish("stir-fry", _FRIED, 15, 80, 160, (_TIME,)),
        Dish("in hot broth", _BROTH, 15, 70, 90),
        Dish("salad", _DRESSED, 12, 80, 80, (_TIME,)),
        Dish("in cream sauce", _CREAMY, 25, 110, 260),
        Dish("one-pan dinner", _FRIED, 20, 90, 180, (_TIME, _SAVINGS)),
        Dish("microwave lunch", _BOWL, 12, 70, 120, (_MICROWAVE, _TIME)),
    ),
    "bakery": (
        Dish("hot sandwich", _BAKED, 10, 90, 180, (_TIME,)),
        Dish("breakfast bake", _SWEET, 20, 70, 190),
        Dish("pizza", _BAKED, 15, 100, 200, (_TIME,)),
        Dish("microwave mug cake", _SWEET, 6, 40, 160, (_MICROWAVE, _TIME)),
        Dish("steamed buns", _GENTLE, 25, 50, 170, (_BABY,)),
    ),
    "sweet": (
        Dish("cake", _SWEET, 60, 140, 260, (_PARTY,)),
        Dish("muffins", _SWEET, 40, 90, 220),
        Dish("pudding", _CREAMY, 35, 80, 150),
        Dish("smoothie", _CREAMY, 5, 70, 90, (_TIME, _LIGHT)),
        Dish("microwave mochi", _SWEET, 15, 60, 170, (_MICROWAVE,)),
        Dish("tart", _SWEET, 80, 180, 320, (_PARTY,)),
        Dish("purée", _GENTLE, 10, 20, 30, (_BABY,)),
    ),
}
_COMPANIONS = {
    "meat": ("cabbage", "onion", "eggplant", "bean sprouts", "daikon radish", "potato", "green pepper", "leek"),
    "fish": ("onion", "shimeji mushrooms", "spinach", "lemon", "tomato", "leek", "broccoli"),
    "protein": ("leek", "kimchi", "tomato", "minced pork", "shimeji mushrooms", "avocado", "spinach"),
    "vegetable": ("bacon", "canned tuna", "egg", "fried tofu", "minced pork", "onion", "cheese", "wakame"),
    "staple": ("bacon", "egg", "shimeji mushrooms", "canned tuna", "spinach", "leek", "tomato", "kimchi"),
    "bakery": ("egg", "cheese", "ham", "avocado", "banana", "honey"),
    "sweet": ("cream cheese", "walnuts", "milk", "honey", "cinnamon", "soy milk"),
}
# How much more (or less) a family is wanted at each of MEALS.
_APPETITE = {
    "meat": (0.2, 0.7, 1.5, 0.3),
    "fish": (0.4, 0.7, 1.4, 0.2),
    "protein": (1.8, 1.0, 1.0, 0.4),
    "vegetable": (0.8, 0.8, 1.2, 0.4),
    "staple": (0.5, 2.5, 0.8, 0.8),
    "bakery": (4.0, 0.9, 0.2, 1.5),
    "sweet": (1.8, 0.4, 0.3, 4.0),
}


def ingredient_appetite() -> NDArray[np.float64]:
    """Share of each ingredient at each meal, [meals, ingredients], rows sum to 1."""
    weights = np.array([[i.weight * _APPETITE[i.family][meal] for i in INGREDIENTS] for meal in range(len(MEALS))])
    shares: NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
    return shares


@dataclass(frozen=True)
class Recipes:
    """The first n recipes.

    Attributes:
        recipe_ids: r0000000, r0000001, ...
        main: index into INGREDIENTS, [n].
        dish: number of the dish over all families, [n].
        popularity: relative, heavy-tailed like Zipf's law, [n].
        tags: which of VALUE_TAGS it has, [n, tags].
        age: uniform in [0, 1): how long ago it appeared, for those that are not new, [n].
    """

    recipe_ids: tuple[str, ...]
    titles: tuple[str, ...]
    author_ids: tuple[str, ...]
    author_types: tuple[str, ...]
    ingredients: tuple[tuple[str, ...], ...]
    main: NDArray[np.int64]
    dish: NDArray[np.int64]
    popularity: NDArray[np.float64]
    tags: NDArray[np.bool_]
    cooking_minutes: NDArray[np.int32]
    cost_yen: NDArray[np.int32]
    calories_kcal: NDArray[np.int32]
    age: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.recipe_ids)

    def tag_names(self, number: int) -> list[str]:
        """Value tags of one recipe."""
        return [tag for tag, has in zip(VALUE_TAGS, self.tags[number], strict=True) if has]


@dataclass(frozen=True)
class Users:
    """The first n users.

    Attributes:
        user_ids: `u` and 12 hexadecimal digits, as a pseudonym looks.
        activity: relative number of sessions, heavy-tailed, [n].
        favourites: indices into INGREDIENTS, [n, 3].
        taste: index into VALUE_TAGS, what they choose by, [n].
        stated: preferences they told the app, mostly their taste, [n, tags].
        device: index into DEVICES, [n].
        age: uniform in [0, 1): how long ago they registered, for those that are not new, [n].
    """

    user_ids: tuple[str, ...]
    activity: NDArray[np.float64]
    favourites: NDArray[np.int64]
    taste: NDArray[np.int64]
    stated: NDArray[np.bool_]
    device: NDArray[np.int64]
    age: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.user_ids)

    def stated_tags(self, number: int) -> list[str]:
        """Stated preferences of one user."""
        return [tag for tag, has in zip(VALUE_TAGS, self.stated[number], strict=True) if has]


def make_recipes(count: int) -> Recipes:
    """The first `count` recipes of the endless catalogue."""
    draw = _Draws("recipes", count)
    weights = np.array([ingredient.weight for ingredient in INGREDIENTS])
    main = draw.choice(weights)
    family = np.array([list(_DISHES).index(ingredient.family) for ingredient in INGREDIENTS])[main]
    dishes = [dish for of_family in _DISHES.values() for dish in of_family]
    sizes = np.array([len(of_family) for of_family in _DISHES.values()])
    dish = (np.cumsum(sizes) - sizes)[family] + (draw.uniform() * sizes[family]).astype(np.int64)
    second, third, flavour = draw.uniform(), draw.uniform(), draw.uniform()
    tags = draw.uniform(len(VALUE_TAGS)) < 0.04
    dish_tags = np.array([[tag in d.tags for tag in range(len(VALUE_TAGS))] for d in dishes])
    main_tags = np.array([[tag == i.tag for tag in range(len(VALUE_TAGS))] for i in INGREDIENTS])
    tags |= dish_tags[dish] | (main_tags[main] & (draw.uniform() < 0.7)[:, None])
    author = (draw.uniform() ** 2 * _AUTHOR_COUNT).astype(np.int64)
    variation = 0.8 + 0.4 * draw.uniform(3)

    titles: dict[str, None] = {}  # in order
    ingredients = []
    for number in range(count):
        ingredient, cooked = INGREDIENTS[main[number]], dishes[dish[number]]
        companions = [name for name in _COMPANIONS[ingredient.family] if name != ingredient.name]
        first = companions.pop(int(second[number] * len(companions)))
        last = companions[int(third[number] * len(companions))]
        start = cooked.flavours[int(flavour[number] * len(cooked.flavours))]
        title = f"{start} {ingredient.name} and {first} {cooked.name}"
        if title in titles:
            title = f"{start} {ingredient.name}, {first} and {last} {cooked.name}"
        if title in titles:
            title = f"{title} no. {number}"
        titles[title] = None
        ingredients.append((ingredient.name, first, last))

    def quantity(base: Sequence[int], extra: Sequence[int], column: int, step: int) -> NDArray[np.int32]:
        exact = (np.array(base)[main] + np.array(extra)[dish]) * variation[:, column]
        rounded: NDArray[np.int32] = (np.maximum(np.round(exact / step), 1) * step).astype(np.int32)
        return rounded

    nothing = [0] * len(INGREDIENTS)
    return Recipes(
        recipe_ids=tuple(f"r{number:07d}" for number in range(count)),
        titles=tuple(titles),
        author_ids=tuple(f"a{number:04d}" for number in author),
        author_types=tuple(AUTHOR_TYPES[(0, 0, 0, 1, 2)[number % 5]] for number in author),
        ingredients=tuple(ingredients),
        main=main,
        dish=dish,
        popularity=(1.0 - draw.uniform()) ** -0.8,
        tags=tags,
        cooking_minutes=quantity(nothing, [d.minutes for d in dishes], 0, 1),
        cost_yen=quantity([i.cost_yen for i in INGREDIENTS], [d.cost_yen for d in dishes], 1, 10),
        calories_kcal=quantity([i.calories_kcal for i in INGREDIENTS], [d.calories_kcal for d in dishes], 2, 1),
        age=draw.uniform(),
    )


def make_users(count: int) -> Users:
    """The first `count` of the endless users."""
    draw = _Draws("users", count)
    weights = np.array([ingredient.weight for ingredient in INGREDIENTS])
    taste = draw.choice(np.array([5.0, 4.0, 2.0, 3.0, 1.5, 2.0]))
    stated = (draw.uniform() < 0.75)[:, None] & (np.arange(len(VALUE_TAGS)) == taste[:, None])
    stated |= draw.uniform(len(VALUE_TAGS)) < 0.05
    return Users(
        user_ids=tuple(_pseudonyms(count)),
        activity=np.minimum((1.0 - draw.uniform()) ** -0.6, 40.0),
        favourites=np.column_stack([draw.choice(weights) for _ in range(_FAVOURITES)]),
        taste=taste,
        stated=stated,
        device=draw.choice(np.array([4.0, 2.0, 3.0, 1.0, 1.0])),
        age=draw.uniform(),
    )


def _pseudonyms(count: int) -> list[str]:
    # One to one on 48 bits (odd factors and shifts can be undone), so no two users share a name.
    mask = np.uint64(2**48 - 1)
    number = np.arange(1, count + 1, dtype=np.uint64)
    for factor in (0x9E3779B97F4B, 0xBF58476D1CE5, 0x94D049BB1331):
        number = (number * np.uint64(factor)) & mask
        number ^= number >> np.uint64(23)
    digits = np.ascontiguousarray(hexadecimal(number)[:, 4:]).view("S12").ravel().astype(str)
    return [f"u{text}" for text in digits.tolist()]


class _Draws:
    """Uniform draws, each from its own generator, so that row i does not depend on how many rows there are."""

    def __init__(self, sequence: str, count: int) -> None:
        self._seed = int.from_bytes(sequence.encode(), "big")
        self._count = count
        self._drawn = 0

    def uniform(self, columns: int = 0) -> NDArray[np.float64]:
        self._drawn += 1
        shape = (self._count, columns) if columns else (self._count,)
        return np.random.default_rng([self._seed, self._drawn]).random(shape)

    def choice(self, weights: NDArray[np.float64]) -> NDArray[np.int64]:
        bounds = np.cumsum(weights) / weights.sum()
        return np.minimum(np.searchsorted(bounds, self.uniform(), side="right"), len(weights) - 1)


def recipe_rows(
    recipes: Recipes,
    numbers: NDArray[np.int64],
    *,
    published: NDArray[np.int64],
    updated: NDArray[np.int64],
    deleted: NDArray[np.bool_],
) -> pa.Table:
    """Rows of a recipe export; the times (epoch microseconds) and flags are those of `numbers`."""
    chosen = numbers.tolist()
    return pa.table(
        [
            [recipes.recipe_ids[n] for n in chosen],
            [recipes.titles[n] for n in chosen],
            [recipes.author_ids[n] for n in chosen],
            [recipes.author_types[n] for n in chosen],
            [recipes.ingredients[n] for n in chosen],
            [recipes.tag_names(n) for n in chosen],
            recipes.cooking_minutes[numbers],
            recipes.cost_yen[numbers],
            recipes.calories_kcal[numbers],
            published,
            updated,
            deleted,
        ],
        schema=RECIPE_SCHEMA,
    )


def user_rows(users: Users, numbers: NDArray[np.int64], *, registered: NDArray[np.int64]) -> pa.Table:
    """Rows of a user export; the times (epoch microseconds) are those of `numbers`."""
    chosen = numbers.tolist()
    return pa.table(
        [
            [users.user_ids[n] for n in chosen],
            registered,
            [users.stated_tags(n) for n in chosen],
            registered,
            np.zeros(len(numbers), dtype=bool),
        ],
        schema=USER_SCHEMA,
    )
