"""The slow kernel: one user at a time, in plain Python, by the description of the rules.

Here: what the fast kernel (core/scoring.py, model.py, ranking.py) must agree with.
Not here: profiles (tests/core/test_profiles.py has a slow one of its own).
"""

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cached_property
from typing import Any

import numpy as np

from kurashiru_pipeline.core.artifact import ModelArtifact
from kurashiru_pipeline.core.catalogue import MAIN_INGREDIENTS
from kurashiru_pipeline.core.model import BLEND_SCALE
from kurashiru_pipeline.core.profiles import ACTION_OF_EVENT
from kurashiru_pipeline.core.ranking import Surface
from kurashiru_pipeline.core.scoring import STRONGEST_OWN
from kurashiru_pipeline.core.weights import Weights
from tests.kitchen import NOW, weights

EVENT_OF_ACTION = {action: event for event, action in ACTION_OF_EVENT.items()}
REASONS = {
    "rules": ("rules",),
    "leftovers": ("leftovers",),
    "taste": ("taste",),
    "repeats": ("repeats", "daytime"),
    "new": ("fresh",),
    "alike": ("ingredients", "authors"),
    "external": ("external",),
    "popular": ("live_popularity", "trained_popularity", "standing_popularity"),
}


def effective(rules: Weights, artifact: ModelArtifact | None) -> Weights:
    """The rules with what the artifact learned, as far as they give it free."""
    plain = rules.model_dump()
    for name, value in ({} if artifact is None else artifact.learned).items():
        if any(name == free or name.startswith(free + ".") for free in rules.learned):
            section = plain
            for part in name.split(".")[:-1]:
                section = section[part]
            section[name.split(".")[-1]] = value
    return weights(**plain)


@dataclass(frozen=True)
class SlowKernel:
    """One profile among recipes."""

    profile: dict[str, Any]
    dishes: list[dict[str, Any]]
    live: dict[str, float]
    artifact: ModelArtifact | None
    given: Weights
    suggestions: dict[str, float]
    surface: Surface = "home"

    @cached_property
    def rules(self) -> Weights:
        return effective(self.given, self.taught)

    @cached_property
    def taught(self) -> ModelArtifact | None:
        """The artifact; without what it learned for those who have no recipe of their own."""
        if self.artifact is None or self.profile["recipe_ids"]:
            return self.artifact
        return replace(self.artifact, learned={}, model="")

    @cached_property
    def known(self) -> dict[str, dict[str, Any]]:
        return {dish["recipe_id"]: dish for dish in sorted(self.dishes, key=lambda dish: dish["recipe_id"])}

    @cached_property
    def alive(self) -> dict[str, dict[str, Any]]:
        return {name: dish for name, dish in self.known.items() if not dish["is_deleted"]}

    @cached_property
    def listable(self) -> dict[str, dict[str, Any]]:
        exclude = self.rules.exclude
        return {
            name: dish
            for name, dish in self.alive.items()
            if name not in exclude.recipes
            and dish["author_id"] not in exclude.authors
            and not set(dish["value_tags"]) & set(exclude.tags)
        }

    # The same for everybody

    def root(self, counts: dict[str, float]) -> dict[str, float]:
        """Square roots of the listable recipes' counts, the largest 1."""
        largest = max([count for name, count in counts.items() if name in self.listable], default=0) or 1
        return {name: math.sqrt(counts.get(name, 0.0) / largest) for name in self.listable}

    def of_artifact(self, field: str) -> dict[str, float]:
        if self.artifact is None:
            return {}
        return dict(zip(self.artifact.recipe_ids.tolist(), getattr(self.artifact, field).tolist(), strict=True))

    @cached_property
    def live_popularity(self) -> dict[str, float]:
        return self.root(self.live)

    @cached_property
    def trained_popularity(self) -> dict[str, float]:
        return self.root(self.of_artifact("popularity"))

    @cached_property
    def standing_popularity(self) -> dict[str, float]:
        return self.root(self.of_artifact("interactions"))

    @cached_property
    def days_old(self) -> dict[str, float]:
        return {name: (NOW - dish["published_at"]) / timedelta(days=1) for name, dish in self.listable.items()}

    def newness(self, name: str) -> float:
        return 0.5 ** (self.days_old[name] / self.rules.fresh.half_life_days)

    def is_new(self, name: str) -> bool:
        return self.days_old[name] <= self.rules.fresh.days

    @cached_property
    def best(self) -> list[str]:
        """Listable recipes by popularity and newness."""
        blend = self.rules.blend

        def prior(name: str) -> float:
            return (
                blend.live_popularity * self.live_popularity[name]
                + blend.trained_popularity * self.trained_popularity[name]
                + (blend.standing_popularity * self.standing_popularity[name] + blend.fresh * self.newness(name))
            )

        return sorted(self.listable, key=lambda name: (-prior(name), name))

    def primary(self, name: str) -> str:
        """The rarest tag, '' without tags."""
        return min(self.known[name]["value_tags"], key=lambda tag: (self.bearers.get(tag, 0), tag), default="")

    @cached_property
    def bearers(self) -> Counter[str]:
        """How many living recipes have each tag."""
        return Counter(tag for dish in self.alive.values() for tag in dish["value_tags"])

    def main(self, name: str) -> list[str]:
        return self.known[name]["ingredients"][:MAIN_INGREDIENTS]

    # The user's own

    def own(self, field: str) -> dict[str, Any]:
        return dict(zip(self.profile["recipe_ids"], self.profile[field], strict=True))

    @cached_property
    def cool_down(self) -> dict[str, float]:
        return self.own("cooldowns")

    @cached_property
    def tastes(self) -> dict[str, float]:
        return dict(zip(self.profile["tastes"], self.profile["taste_weights"], strict=True))

    @cached_property
    def left(self) -> dict[str, float]:
        return dict(zip(self.profile["ingredients"], self.profile["ingredient_weights"], strict=True))

    @cached_property
    def bases(self) -> dict[str, dict[str, float]]:
        """How each own recipe counts as a start of transitions, by basis."""
        weight, action = self.own("recipe_weights"), self.own("recipe_actions")
        age, count = self.own("recipe_ages"), self.own("recipe_counts")
        told = {name: getattr(self.rules.actions, EVENT_OF_ACTION[action[name]]) * (weight[name] > 0) for name in age}
        newest = min(age, key=lambda name: age[name], default="")
        return {
            "recent": weight,
            "session": {name: told[name] / (1 + age[name] / 60) for name in age},
            "steady": {name: told[name] * count[name] for name in age},
            "newest": {name: told[name] * (name == newest) for name in age},
        }

    @cached_property
    def interest(self) -> dict[str, float]:
        """Own recipes that are followed."""
        if self.artifact is None:
            return {}
        each, by = self.bases, self.rules.interest
        total = {
            name: by.recent * each["recent"][name]
            + (by.session * each["session"][name] + by.steady * each["steady"][name])
            + by.newest * each["newest"][name]
            for name in self.cool_down
        }
        least = max(self.rules.profile.least_share * max(total.values(), default=0), np.finfo(np.float32).tiny)
        names = set(self.artifact.recipe_ids.tolist()) & set(self.known)
        return {name: value for name, value in total.items() if name in names and value >= least}

    def transition(self, source: str, target: str) -> np.float32:
        assert self.artifact is not None
        names = self.artifact.recipe_ids.tolist()
        return np.float32(self.artifact.neighbours[names.index(source), names.index(target)])

    def following(self, values: dict[str, float]) -> dict[str, np.float32]:
        """Strength of each recipe after those of `interest`, in the precision of the model."""
        total: dict[str, np.float32] = defaultdict(np.float32)
        for name in self.interest:
            for target in self.of_artifact("popularity"):
                if self.transition(name, target) > 0:
                    total[target] += np.float32(values[name]) * self.transition(name, target)
        return total

    @cached_property
    def follows(self) -> dict[str, float]:
        """The strongest followers that may be listed."""
        total = self.following(self.interest)
        kept = sorted(total, key=lambda name: (-total[name], name))[: self.rules.candidates.rules]
        return {name: float(total[name]) for name in kept if name in self.listable}

    def part(self, basis: str) -> dict[str, float]:
        """Strengths of the followers by one basis of interest alone, the largest 1."""
        values = self.bases[basis]
        if basis == "newest":
            values = {name: float(values[name] > 0) for name in values}
        total = self.following(values)
        return to_one({name: float(total.get(name, 0.0)) for name in self.follows})

    @cached_property
    def parts(self) -> dict[str, dict[str, float]]:
        return {basis: self.part(basis) for basis in self.bases}

    @cached_property
    def suggested(self) -> dict[str, float]:
        return {name: score for name, score in self.suggestions.items() if name in self.known and score > 0}

    @cached_property
    def liked(self) -> dict[str, float]:
        """Share of the user's strongest recipes that use an ingredient, or are of an author."""
        count = self.own("recipe_counts")
        shares: dict[str, float] = defaultdict(float)
        for name in self.strongest:
            for attribute in self.attributes(name):
                shares[attribute] += count[name] / sum(count[other] for other in self.strongest)
        return shares

    @property
    def strongest(self) -> list[str]:
        return [name for name in self.profile["recipe_ids"][:STRONGEST_OWN] if name in self.known]

    def attributes(self, name: str) -> list[str]:
        """Main ingredients and, where it is known, the author."""
        author = self.known[name]["author_id"]
        return [*self.main(name), *([f"by {author}"] if author else [])]

    # Candidates

    @cached_property
    def candidates(self) -> list[str]:
        few, each = self.rules.candidates.strongest, self.rules.candidates.each
        found = set(self.follows) | {name for name in [*self.cool_down, *self.suggested] if name in self.listable}
        found |= set(self.best[: self.rules.candidates.popular])
        found |= set([name for name in self.best if self.is_new(name)][: self.rules.candidates.fresh])
        for tag in self.profile["tastes"][:few]:
            found |= set([name for name in self.best if tag in self.known[name]["value_tags"]][:each])
        for item in self.profile["ingredients"][:few]:
            found |= set([name for name in self.best if item in self.main(name)][:each])
        return sorted(found)

    @cached_property
    def sources(self) -> dict[str, dict[str, float]]:
        """Unweighted sources of each candidate."""

        def likeness(name: str) -> float:
            tags = self.known[name]["value_tags"]
            return sum(self.tastes.get(tag, 0.0) for tag in tags) / math.sqrt(max(len(tags), 1))

        closest = max(map(likeness, self.known), default=0) or 1
        follows, suggested = to_one(self.follows), to_one(self.suggested)
        repeats, daytimes = to_one(self.own("recipe_counts")), to_one(self.own("recipe_daytimes"))
        return {
            name: {
                "rules": follows.get(name, 0.0),
                "live_popularity": self.live_popularity[name],
                "trained_popularity": self.trained_popularity[name],
                "standing_popularity": self.standing_popularity[name],
                "taste": likeness(name) / closest,
                "ingredients": sum(self.liked.get(item, 0.0) for item in self.main(name)),
                "authors": self.liked.get(f"by {self.known[name]['author_id']}", 0.0),
                "fresh": self.newness(name),
                "repeats": repeats.get(name, 0.0),
                "daytime": daytimes.get(name, 0.0),
                "seen": float(name in self.cool_down),
                "leftovers": sum(self.left.get(item, 0.0) for item in self.main(name)),
                "external": suggested.get(name, 0.0),
            }
            for name in self.candidates
        }

    def worth(self, name: str) -> dict[str, float]:
        return {source: getattr(self.rules.blend, source) * value for source, value in self.sources[name].items()}

    def score(self, name: str) -> float:
        worth = self.worth(name)
        total = sum(value for source, value in worth.items() if source != "seen")
        cooled = total * self.cool_down.get(name, 1.0) if total > 0 else total
        return round(cooled + worth["seen"], 6)

    @cached_property
    def shortlist(self) -> list[str]:
        score = {name: self.score(name) for name in self.candidates}
        ranked = sorted(self.candidates, key=lambda name: (-score[name], name))
        most = max(self.rules.diversity.shortlist, self.rules.list_length)
        new = [name for name in ranked[most:] if self.is_new(name)]
        return ranked[:most] + new[: self.new_places]

    @property
    def new_places(self) -> int:
        return int(self.rules.list_length * self.rules.fresh.min_share)

    def features(self, name: str) -> dict[str, float]:
        """What the re-ranker knows of a candidate."""
        sources = {source: v for source, v in self.sources[name].items() if source not in {"leftovers", "external"}}
        ages, cool_down = self.own("recipe_ages"), self.cool_down.get(name, 1.0)
        return {
            **sources,
            **{basis: part.get(name, 0.0) for basis, part in self.parts.items()},
            "cool_down": cool_down,
            "own_age": log_hours(ages.get(name, math.inf)),
            "recipe_age": math.log1p(self.days_old[name]),
            "gap": log_hours(min(ages.values(), default=math.inf)),
            "own_recipes": math.log1p(len(ages)),
            "blend": sum(getattr(self.rules.blend, source) * value for source, value in sources.items()) * cool_down,
        }

    @cached_property
    def relevance(self) -> dict[str, float]:
        """What the shortlist is picked by."""
        if self.taught is None or not self.taught.model or not self.shortlist:
            return {name: self.score(name) for name in self.shortlist}
        import lightgbm

        booster = lightgbm.Booster(model_str=self.taught.model)
        features = {name: self.features(name) for name in self.shortlist}
        values = [[features[name][feature] for feature in booster.feature_name()] for name in self.shortlist]
        scale = self.taught.learned.get(BLEND_SCALE, 0.0)
        added = dict(zip(self.shortlist, booster.predict(np.array(values)).tolist(), strict=True))
        scaled = from_0_to_1({name: scale * features[name]["blend"] + added[name] for name in self.shortlist})
        ours = {name: self.worth(name)["leftovers"] + self.worth(name)["external"] for name in self.shortlist}
        return {name: scaled[name] + ours[name] for name in self.shortlist}

    # The list

    def likeness(self, one: str, other: str) -> float:
        some, others = set(self.known[one]["value_tags"]), set(self.known[other]["value_tags"])
        return len(some & others) / max(len(some | others), 1)

    @cached_property
    def picks(self) -> list[str]:
        dial, limits, length = getattr(self.rules.diversity.dials, self.surface), self.rules.limits, self.length
        scaled = from_0_to_1(self.relevance)
        picked: list[str] = []
        reserved = min(sum(map(self.is_new, self.shortlist)), self.new_places)
        for nth in range(length):
            rest = [name for name in self.shortlist if name not in picked]
            if reserved - sum(map(self.is_new, picked)) >= length - nth:
                rest = [name for name in rest if self.is_new(name)]
            by_rank = {}
            for name in rest:
                alike = sum(self.likeness(name, other) for other in picked)
                author, primary = self.known[name]["author_id"], self.primary(name)
                same_author = sum(self.known[other]["author_id"] == author for other in picked if author)
                same_tag = sum(self.primary(other) == primary for other in picked if primary)
                over = same_author >= limits.per_author or same_tag >= limits.per_tag
                by_rank[name] = (not over, (1 - dial) * scaled[name] - alike * (dial / max(nth, 1)))
            picked.append(max(rest, key=by_rank.__getitem__))
        return picked

    @property
    def length(self) -> int:
        return min(self.rules.list_length, len(self.shortlist))

    def reason(self, name: str) -> str:
        worth = self.worth(name)
        tags = self.known[name]["value_tags"]
        groups = {kind: sum(worth[source] for source in sources) for kind, sources in REASONS.items()}
        groups["new"] *= bool(tags)
        kind = max(groups, key=groups.__getitem__)
        actions = self.own("recipe_actions")
        if groups[kind] <= 0 or kind == "popular":
            return "popular"
        if kind == "rules":
            parts = {
                source: np.float32(value) * self.transition(source, name) for source, value in self.interest.items()
            }
            anchor = max(parts, key=parts.__getitem__)
            return f"{actions[anchor]}:{anchor}"
        return {
            "leftovers": lambda: f"ingredient:{max(self.main(name), key=lambda item: self.left.get(item, 0.0))}",
            "taste": lambda: f"taste:{min(tags, key=lambda tag: (-self.tastes.get(tag, 0.0), tag))}",
            "repeats": lambda: f"{actions[name]}:{name}",
            "new": lambda: f"new:{self.primary(name)}",
            "alike": lambda: next(
                f"{actions[own]}:{own}"
                for own in self.strongest
                if set(self.attributes(own)) & set(self.attributes(name))
            ),
            "external": lambda: "external",
        }[kind]()


def to_one(values: dict[str, float]) -> dict[str, float]:
    largest = max(values.values(), default=0) or 1
    return {name: value / largest for name, value in values.items()}


def from_0_to_1(values: dict[str, float]) -> dict[str, float]:
    low, high = min(values.values(), default=0), max(values.values(), default=0)
    return {name: (value - low) / ((high - low) or 1) for name, value in values.items()}


def log_hours(seconds: float) -> float:
    return math.log(min(seconds / 3600, 87_600) + 1 / 3600)
