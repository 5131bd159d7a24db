"""The recipes, as arrays the kernel can index.

Here: recipe ids, tags, main ingredients and publication times by position, and the look-ups into them.
Not here: what a user did (profiles.py), popularity and scores (scoring.py).
"""

import unicodedata
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from kurashiru_pipeline.core.columns import (
    Bools,
    Floats,
    Ints,
    column_micros,
    csr,
    flatten,
    positions,
    ranges,
    starts,
    strings,
    to_numpy,
    vocabulary,
)
from kurashiru_pipeline.core.vocabulary import Vocabulary
from kurashiru_pipeline.core.weights import MAIN_INGREDIENTS


def plain(text: str) -> str:
    """Text as it is compared: one width of characters, no case."""
    return unicodedata.normalize("NFKC", text).casefold().strip()


@dataclass(frozen=True, eq=False)
class Catalogue:
    """R recipes in the order of their ids, T tags, G ingredients and A authors in the order of their names.

    `primary` is a recipe's rarest tag among the living recipes (T without tags). Recipes with the same tags share a
    pattern; `patterns` is (P, T), a row has length 1. `author` is (R,), -1 for the unknown.
    """

    recipe_ids: Any
    alive: Bools
    published: Ints
    tags: Any
    tag_offsets: Ints
    tag_values: Ints
    primary: Ints
    pattern: Ints
    patterns: Any
    ingredients: Any
    main_ingredients: Ints
    authors: Any
    author: Ints

    @classmethod
    def from_arrow(cls, recipes: pa.Table) -> "Catalogue":
        """Index recipes: recipe_id, value_tags, ingredients, author_id, published_at, is_deleted; others are ignored.

        Raises:
            ValueError: a recipe_id occurs twice or is null.
        """
        ids = strings(recipes["recipe_id"])
        order = pc.sort_indices(ids)
        ids, recipes = ids.take(order), recipes.take(order)
        size = len(ids)
        if ids.null_count or (size and pc.any(pc.equal(ids[1:], ids[:-1])).as_py()):
            raise ValueError("the recipe table must hold each recipe_id once, and no null")
        alive = ~to_numpy(recipes["is_deleted"], False).astype(bool)

        tags, tag_rows, tag_values = _words(recipes["value_tags"])
        pairs = np.unique(tag_rows * max(len(tags), 1) + tag_values)
        tag_rows, tag_values = np.divmod(pairs, max(len(tags), 1))
        tag_sizes = np.bincount(tag_rows, minlength=size)
        tag_offsets = starts(tag_sizes)
        pattern, patterns = _patterns(tag_sizes, tag_offsets, tag_values, len(tags))

        ingredients, rows, values = _words(recipes["ingredients"])
        place = np.arange(len(rows)) - starts(np.bincount(rows, minlength=size))[rows]
        main = np.full((size, MAIN_INGREDIENTS), -1, dtype=np.int64)
        among = place < MAIN_INGREDIENTS
        main[rows[among], place[among]] = values[among]

        writers = strings(recipes["author_id"])
        authors = vocabulary(writers)
        return cls(
            recipe_ids=ids,
            alive=alive,
            published=column_micros(recipes["published_at"]),
            tags=tags,
            tag_offsets=tag_offsets,
            tag_values=tag_values,
            primary=_rarest(tag_rows, tag_values, alive, len(tags)),
            pattern=pattern,
            patterns=patterns,
            ingredients=ingredients,
            main_ingredients=main,
            authors=authors,
            author=positions(writers, authors),
        )

    @cached_property
    def tag_bits(self) -> NDArray[np.uint64]:
        """(words, R) the tags of each recipe as bits."""
        bits = np.zeros((max(-(-len(self.tags) // 64), 1), len(self.recipe_ids)), np.uint64)
        row = np.repeat(np.arange(len(self.recipe_ids)), np.diff(self.tag_offsets))
        bit = np.uint64(1) << (self.tag_values % 64).astype(np.uint64)
        np.bitwise_or.at(bits, (self.tag_values // 64, row), bit)
        return bits

    @cached_property
    def names(self) -> Any:
        """All recipes, ingredients, tags and nothing: what a reason can name."""
        parts: Any = [self.recipe_ids, self.ingredients, self.tags, pa.array([""], pa.string())]
        return pa.concat_arrays(parts)

    @cached_property
    def bearers(self) -> tuple[Ints, Ints, Floats]:
        """`patterns` by tag: (T + 1,) offsets, and the patterns that hold each tag with its value in them."""
        by_tag = self.patterns.T.tocsr()
        return by_tag.indptr.astype(np.int64), by_tag.indices.astype(np.int64), by_tag.data

    @cached_property
    def kept_by_artifact(self) -> WeakKeyDictionary[Any, Any]:
        """What depends on these recipes and a model artifact alone (scoring.py), as long as both are there."""
        return WeakKeyDictionary()

    @cached_property
    def recipe_vocabulary(self) -> Vocabulary:
        return Vocabulary(self.recipe_ids)

    @cached_property
    def ingredient_vocabulary(self) -> Vocabulary:
        return Vocabulary(self.ingredients)

    @cached_property
    def tag_vocabulary(self) -> Vocabulary:
        return Vocabulary(self.tags)

    def index_of(self, recipe_ids: Any) -> Ints:
        """(N,) position of each recipe id, -1 for the unknown."""
        return self.recipe_vocabulary.find(recipe_ids)

    def tags_of(self, recipes: Ints) -> tuple[Ints, Ints]:
        """Tags of N recipes given by position (-1 has none), as (number in 0..N-1, tag) pairs."""
        sizes = np.where(recipes >= 0, np.diff(self.tag_offsets, append=0)[recipes], 0)
        return np.repeat(np.arange(len(recipes)), sizes), self.tag_values[ranges(self.tag_offsets[recipes], sizes)]

    def ingredients_in(self, text: str) -> list[int]:
        """Positions of the ingredients a text names, as they stand in it; case and width of letters do not matter.

        The longest name counts, wherever it cuts no Latin word: "tomato" in "tomato soup" and not in "tomatoes",
        while a name in Japanese, which has no spaces, may stand anywhere.
        """
        text = plain(text)
        found: list[int] = []
        at = 0
        while at < len(text):
            end = next(
                (
                    end
                    for end in range(min(len(text), at + self._longest_name), at, -1)
                    if text[at:end] in self._named and not _cuts_word(text, at) and not _cuts_word(text, end)
                ),
                None,
            )
            if end is None:
                at += 1
            else:
                found.append(self._named[text[at:end]])
                at = end
        return found

    @cached_property
    def _named(self) -> dict[str, int]:
        named = {plain(str(name)): at for at, name in enumerate(self.ingredients.to_pylist())}
        named.pop("", None)
        return named

    @cached_property
    def _longest_name(self) -> int:
        return max(map(len, self._named), default=0)


def _cuts_word(text: str, at: int) -> bool:
    return 0 < at < len(text) and (text[at - 1] + text[at]).isascii() and text[at - 1 : at + 1].isalnum()


def _words(column: Any) -> tuple[Any, Ints, Ints]:
    """Distinct words of a list column in order, and its contents as (row, position of the word) pairs."""
    rows, values = flatten(column)
    values = strings(values)
    words = vocabulary(values)
    return words, rows, positions(values, words)


def _rarest(rows: Ints, tags: Ints, alive: Bools, tag_count: int) -> Ints:
    """(R,) the rarest tag of each recipe, equals by name, from its sorted (row, tag) pairs."""
    rarest = np.full(len(alive), tag_count, dtype=np.int64)
    counts = np.bincount(tags[alive[rows]], minlength=tag_count)
    by_rarity = np.lexsort((np.arange(tag_count), counts))
    rank = np.empty(tag_count, dtype=np.int64)
    rank[by_rarity] = np.arange(tag_count)
    tagged, first = np.unique(rows, return_index=True)
    if len(tagged):
        rarest[tagged] = by_rarity[np.minimum.reduceat(rank[tags], first)]
    return rarest


def _patterns(sizes: Ints, offsets: Ints, tags: Ints, tag_count: int) -> tuple[Ints, Any]:
    """(R,) pattern of each recipe, and the (P, T) patterns, rows of length 1.

    Recipes are grouped by the sum of 64-bit random numbers of their tags: equal sets are equal, and a million
    different sets meet with a chance below 1e-7.
    """
    random = np.random.default_rng(0).integers(0, 2**63, tag_count, dtype=np.uint64)
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(random[tags], dtype=np.uint64)])
    _, example, pattern = np.unique(sums[offsets[1:]] - sums[offsets[:-1]], return_index=True, return_inverse=True)
    size = sizes[example]
    values = np.repeat(1 / np.sqrt(np.maximum(size, 1)), size)
    patterns = csr(values, tags[ranges(offsets[example], size)], starts(size), tag_count)
    return pattern.astype(np.int64), patterns
