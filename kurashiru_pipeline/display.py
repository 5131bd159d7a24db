"""How lists, their reasons and their changes look in a terminal.

Here: explanations and what-ifs (realtime/inquiry.py) as tables of rich, and a list before and after for the demo.
Not here: what is in them, printing (cli.py), or JSON.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from kurashiru_pipeline.core.explain import Dropped, Explanation, Origin, Pick, Scored, Slot, Why
from kurashiru_pipeline.core.scoring import SOURCES
from kurashiru_pipeline.realtime.inquiry import Behavior, Hypothetical, UserExplanation, WhatIf, shown

WIDTH = 110
_TOP_FEATURES = 3
_EXAMPLES = 3
_FOR_STRANGERS = ", without what it learned of people who did something with recipes"
_VISIBLE = 0.005

DID = {
    "recipe_view": "viewed",
    "recipe_favorite": "favourited",
    "recipe_unfavorite": "no longer favourite:",
    "recipe_cooked": "cooked",
    "shopping_list_add": "put on the shopping list:",
    "search": "searched for",
    "recommendation_click": "clicked",
}
ORIGINS = {
    Origin.OWN: "what they had before",
    Origin.RULES: "what follows that",
    Origin.EXTERNAL: "an external source",
    Origin.TASTE: "their tastes",
    Origin.LEFTOVERS: "their leftovers",
    Origin.POPULAR: "popular, for all",
    Origin.NEW: "new, for all",
}
SHORT = {
    "rules": "rules",
    "live_popularity": "pop",
    "trained_popularity": "train",
    "standing_popularity": "ever",
    "taste": "taste",
    "ingredients": "ingr",
    "authors": "author",
    "fresh": "new",
    "repeats": "again",
    "daytime": "hour",
    "seen": "seen",
    "leftovers": "left",
    "external": "ext",
}
"""Sources as headings of narrow columns."""
FEATURES = {
    "rules": "follows what they did",
    "live_popularity": "popular of late",
    "trained_popularity": "popular as of training",
    "standing_popularity": "popular of old",
    "taste": "their tastes",
    "ingredients": "their ingredients",
    "authors": "their authors",
    "fresh": "new",
    "repeats": "how often they had it",
    "daytime": "they have it at this hour",
    "seen": "they know it",
    "recent": "follows the last things they did",
    "session": "follows the last minutes",
    "steady": "follows their habits",
    "newest": "follows the very last thing they did",
    "cool_down": "how long it has rested",
    "own_age": "how long ago they had it",
    "recipe_age": "age of the recipe",
    "gap": "how long they were away",
    "own_recipes": "how many recipes they know",
    "blend": "the blended score",
}
_REASONS = {
    Why.DELETED: "is deleted",
    Why.EXCLUDED: "is excluded",
    Why.COOLED_DOWN: "had it lately",
    Why.AUTHOR_LIMIT: "enough of its author",
    Why.TAG_LIMIT: "enough of its tag",
    Why.KEPT_FOR_NEW: "a new recipe has its place",
    Why.TOO_ALIKE: "too much like others",
    Why.LESS_RELEVANT: "others fit better",
    Why.BELOW_SHORTLIST: "below the shortlist",
}
_SLOTS = {Slot.BEST: "", Slot.KEPT_FOR_NEW: "kept for a new one", Slot.OVER_LIMIT: "over a limit: nothing else left"}


def explanation_view(answer: UserExplanation, limit: int) -> RenderableType:
    """The answer to `kurashiru explain`.

    Args:
        limit: rows of behaviours and of the list.
    """
    explanation, titles = answer.explanation, answer.titles
    whose = f"user {answer.user_id}"
    if not answer.is_known:
        whose += " is new: nothing is known of them, so they are served #default"
    head = Text.from_markup(
        f"[bold]{escape(whose)}[/]\n[dim]as of {explanation.as_of:%Y-%m-%d %H:%M:%S} UTC, the newest micro-batch; "
        f"model: {escape(explanation.algorithm)}{_FOR_STRANGERS if explanation.is_stranger else ''}[/]"
    )
    parts: list[RenderableType] = [head]
    if answer.is_known:
        parts += [_behaviors(answer.behaviors, titles, limit), _knowledge(answer)]
    parts += [
        _sources(explanation, titles),
        _steps(explanation, titles, limit),
        _contributions(explanation, titles, limit),
    ]
    if any(pick.scored.model for pick in explanation.picks):
        parts.append(_verdicts(explanation.picks[:limit], titles))
    parts += [_left_out(answer), _ending(answer, limit)]
    return Group(*_spaced(parts))


def what_if_view(answer: WhatIf) -> RenderableType:
    """The answer to `kurashiru whatif`."""
    whose = f"user {answer.user_id}" + ("" if answer.is_known else ", who is new: before, they are served #default")
    head = Text.from_markup(
        f"[bold]{escape(whose)}[/]\n[dim]as of {answer.as_of:%Y-%m-%d %H:%M:%S} UTC, the newest micro-batch; model: "
        f"{escape(answer.algorithm)}; nothing is written[/]"
    )
    what = Text.assemble(
        ("What if they ", "bold"), ", then ".join(did(event, answer.titles) for event in answer.events), "?"
    )
    new = sum(move.before is None for move in answer.moves)
    moved = sum(None not in {move.before, move.after} and move.before != move.after for move in answer.moves)
    summary = (
        f"{new} of {len(answer.after)} recipes are new, {moved} others have moved" if new or moved else "nothing moves"
    )
    before, after = (shown(rows, answer.titles) for rows in (answer.before, answer.after))
    table = change_view(("before", "after"), before, after, len(after))
    return Group(*_spaced([head, what, table, Text(summary, "bold")]))


Rows = Sequence[Mapping[str, Any]]
"""A list for people: recipe_id, title and because of each recipe, as lookup.look_up and inquiry.shown give them."""


def change_view(headings: tuple[str, str], before: Rows, after: Rows, limit: int) -> Table:
    """Two lists side by side, with what moved."""
    stays = {row["recipe_id"] for row in after}
    was = {row["recipe_id"]: place for place, row in enumerate(before, start=1)}
    table = _table("#", (headings[0], 1), ("", 0), (headings[1], 1))
    for place in range(1, min(max(len(before), len(after)), limit) + 1):
        old, new, mark = Text(), Text(), Text()
        if place <= len(before):
            row = before[place - 1]
            old = _entry(row)
            if row["recipe_id"] not in stays:
                old = Text.assemble(("gone: ", "red"), old)
        if place <= len(after):
            row = after[place - 1]
            mark = _move(was.get(row["recipe_id"]), place)
            new = _entry(row, "bold green" if row["recipe_id"] not in was else "")
        _add(table, str(place), old, mark, new)
    return table


def _move(before: int | None, after: int) -> Text:
    """What became of the place of a recipe that is in the list."""
    if before is None:
        return Text("new", "bold green")
    if before == after:
        return Text("=", "dim")
    return Text(f"↑ {before - after}", "green") if after < before else Text(f"↓ {after - before}", "yellow")


def ago(seconds: float) -> str:
    """A length of time in its largest unit."""
    for unit, length in (("d", timedelta(days=1)), ("h", timedelta(hours=1)), ("min", timedelta(minutes=1))):
        if seconds >= length.total_seconds():
            return f"{seconds / length.total_seconds():.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def did(event: Hypothetical, titles: Mapping[str, str]) -> str:
    """A behaviour in words."""
    about = _title(event.recipe_id, titles) if event.recipe_id is not None else ""
    if event.detail is not None:
        about = f"{about} ({event.detail})" if about else f"“{event.detail}”"
    return f"{DID[event.event_name]} {about}"


def _behaviors(behaviors: Sequence[Behavior], titles: Mapping[str, str], limit: int) -> Table:
    table = _table(("when", 0), ("behaviour", 1), "weight", "followed", "cool-down", title="what they did")
    for behavior in behaviors[:limit]:
        what = did(Hypothetical(behavior.event_name, behavior.recipe_id, behavior.detail), titles)
        figures = [_figure(behavior.weight), _share(behavior.followed), _factor(behavior.cool_down)]
        _add(table, ago(behavior.seconds_ago), what, *figures)
    if len(behaviors) > limit:
        table.caption = f"and {len(behaviors) - limit} older ones"
    return table


def _knowledge(answer: UserExplanation) -> Table:
    profile = answer.explanation.profile
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column()
    tastes = zip(profile["tastes"], profile["taste_weights"], strict=True)
    left = zip(profile["ingredients"], profile["ingredient_weights"], strict=True)
    said = ", ".join(_words(tag) for tag in answer.stated_tastes)
    _add(table, "said they like", said or "nothing")
    _add(table, "tastes", ", ".join(f"{_words(tag)} {share:.0%}" for tag, share in tastes) or "none known")
    _add(table, "leftovers", ", ".join(f"{_words(name)} {weight:.0%}" for name, weight in left) or "none known")
    return table


def _sources(explanation: Explanation, titles: Mapping[str, str]) -> Table:
    title = f"{explanation.candidate_count} candidates, {explanation.shortlist_count} of them on the shortlist"
    table = _table(("put forward by", 0), "recipes", ("best of them", 1), "score", title=title)
    scored = {one.recipe_id: one for one in _scored(explanation)}
    for source in explanation.sources:
        best = source.best
        _add(
            table,
            ORIGINS[source.origin],
            str(source.count),
            "" if best is None else _title(best, titles),
            "" if best is None else _figure(scored[best].score),
            style=None if source.count else "dim",
        )
    return table


def _steps(explanation: Explanation, titles: Mapping[str, str], limit: int) -> Table:
    title = f"the list, step by step: value = {1 - explanation.dial:.2f} x fit - {explanation.dial:.2f} x alike"
    has_model = any(pick.scored.model for pick in explanation.picks)
    relevance = ["verdict"] if has_model else []
    table = _table("#", ("recipe", 1), "sum", "cool-down", "score", *relevance, "fit", "alike", "value", title=title)
    for place, pick in enumerate(explanation.picks[:limit], start=1):
        scored = pick.scored
        [row] = shown([(scored.recipe_id, pick.reason)], titles)
        cell = _entry(row)
        if _SLOTS[pick.slot]:
            cell.append(f" ({_SLOTS[pick.slot]})", "yellow")
        verdict = [_figure(scored.relevance)] if has_model else []
        figures = [f"{pick.fit:.2f}", f"{pick.likeness:.2f}", _figure(pick.value)]
        _add(
            table,
            str(place),
            cell,
            f"{scored.blended:.2f}",
            _factor(scored.cool_down),
            _figure(scored.score),
            *verdict,
            *figures,
        )
    picked_by = "the re-ranker's verdict" if has_model else "the score"
    spared = ", which spares what “seen” adds" if explanation.blend["seen"] else ""
    table.caption = (
        f"score: sum times cool-down{spared}; fit: {picked_by} from 0 to 1 over the shortlist; alike: mean likeness of "
        f"tags to those above; at most {explanation.per_author} of an author and {explanation.per_tag} of a tag, "
        f"{explanation.new_places} places kept for new recipes"
    )
    return table


def _contributions(explanation: Explanation, titles: Mapping[str, str], limit: int) -> Table:
    listed = [(str(place), pick.scored) for place, pick in enumerate(explanation.picks[:limit], start=1)]
    others = [("", left.scored) for left in _examples(explanation) if left.scored is not None]
    names = [name for name in SOURCES if any(one.contributions[name] for _, one in (*listed, *others))]
    headings = [f"{SHORT[name]}\n{round(explanation.blend[name], 2) or 0:.2f}" for name in names]
    table = _table(
        "#", ("recipe\n   weight of the source:", 1), *headings, title="what adds up: each source by its weight"
    )
    for rows, style in ((listed, ""), (others, "dim")):
        for place, one in rows:
            cells = [_contribution(one.contributions[name]) for name in names]
            _add(table, place, Text(_title(one.recipe_id, titles), no_wrap=True), *cells, style=style)
        table.add_section()
    table.caption = (
        "rules: what follows what they did; pop, train, ever: popularity of late, at training, of all time; ingr, "
        "author: of recipes they had; again, hour: repeats, and at this time of day; left: leftovers; ext: an external "
        "source. Dimmed: left out, the best for each reason"
    )
    return table


def _contribution(value: float) -> Text:
    if abs(value) < _VISIBLE:
        return Text("·" if value else "", "dim")
    return Text(f"{value:.2f}", "red" if value < 0 else "")


def _verdicts(picks: Sequence[Pick], titles: Mapping[str, str]) -> Table:
    table = _table("#", ("recipe", 1), ("what moved the re-ranker most", 2), title="the re-ranker's verdict")
    for place, pick in enumerate(picks, start=1):
        shares = sorted(pick.scored.model.items(), key=lambda share: -abs(share[1]))[:_TOP_FEATURES]
        words = Text(", ").join(
            Text(f"{FEATURES[name]} {share:+.2f}", "green" if share > 0 else "red") for name, share in shares
        )
        _add(table, str(place), _title(pick.scored.recipe_id, titles), words)
    return table


def _left_out(answer: UserExplanation) -> Table:
    explanation = answer.explanation
    table = _table(("because", 0), "recipes", ("the best of them", 1), title="what did not make the list")
    for why, words in _REASONS.items():
        its = [left for left in explanation.dropped if left.why is why]
        if its:
            _add(table, words, str(len(its)), "\n".join(_case(left, answer) for left in its[:_EXAMPLES]))
    return table


def _case(left: Dropped, answer: UserExplanation) -> str:
    """One recipe that did not make the list, and the figures that kept it out."""
    name, scored = _title(left.recipe_id, answer.titles), left.scored
    if left.why is Why.COOLED_DOWN and scored is not None:
        had = [
            f"{DID[behavior.event_name]} {ago(behavior.seconds_ago)}"
            for behavior in answer.behaviors
            if behavior.recipe_id == left.recipe_id and behavior.event_name in {"recipe_view", "recipe_cooked"}
        ]
        return f"{name} ({', '.join(had[:2])}: {scored.blended:.3f} × {scored.cool_down:.2f} = {scored.score:.3f})"
    if left.why is Why.TOO_ALIKE:
        return f"{name} (like {_title(left.detail, answer.titles)})"
    if left.detail:
        return f"{name} ({_words(left.detail)})"
    return name if scored is None else f"{name} ({scored.score:.3f})"


def _ending(answer: UserExplanation, limit: int) -> RenderableType:
    delivered, explanation = answer.delivered, answer.explanation
    if delivered is None:
        return Text.assemble(("not delivered", "bold yellow"), f": {'; '.join(answer.differences)}")
    of_when = f"version {delivered.version}, {delivered.generated_at:%Y-%m-%d %H:%M:%S} UTC, {delivered.algorithm}"
    if not answer.differences:
        return Text.assemble(("✓ delivered as explained", "bold green"), f" ({of_when})")
    now = shown(zip(explanation.recipe_ids, explanation.reasons, strict=True), answer.titles)
    readers = shown([entry[:2] for entry in delivered.entries], answer.titles)
    because = Text.assemble(("not the list that readers get", "bold yellow"), f" ({of_when}):")
    reasons = [Text(f"- {difference}") for difference in answer.differences]
    change = change_view(("delivered", "as it would be now"), readers, now, limit)
    return Group(because, *reasons, change)


def _examples(explanation: Explanation) -> Iterable[Dropped]:
    """The first recipe left out for each reason."""
    return {left.why: left for left in reversed(explanation.dropped)}.values()


def _scored(explanation: Explanation) -> Iterable[Scored]:
    yield from (pick.scored for pick in explanation.picks)
    yield from (left.scored for left in explanation.dropped if left.scored is not None)


def _entry(row: Mapping[str, Any], style: str = "") -> Text:
    return Text.assemble((row["title"], style), "\n", (row["because"], "dim"))


def _title(recipe_id: str, titles: Mapping[str, str]) -> str:
    return titles.get(recipe_id, recipe_id)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def _factor(value: float | None) -> str:
    return "" if value is None else f"× {value:.2f}"


def _table(*columns: str | tuple[str, int], title: str | None = None) -> Table:
    """A table as wide as it may be; a column is right-aligned figures, or text with its share of the width."""
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        caption_justify="left",
        caption_style="dim",
        box=box.SIMPLE_HEAD,
        expand=True,
        show_edge=False,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for column in columns:
        if isinstance(column, str):
            table.add_column(column, justify="right", no_wrap=True)
        else:
            table.add_column(Text(column[0]), ratio=column[1] or None, no_wrap=not column[1], overflow="ellipsis")
    return table


def _add(table: Table, *cells: str | Text, style: str | None = None) -> None:
    """A row of the table; square brackets in a text are no markup."""
    table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells), style=style)


def _spaced(parts: Sequence[RenderableType]) -> list[RenderableType]:
    return [item for part in parts for item in (part, "")][:-1]
