{#- Names of events in which a user takes up a recipe. An impression is our act; a click opens the recipe, and that view
    counts; taking a favourite back is no interest. -#}
{% macro interaction_event_names() -%}
    ('recipe_view', 'recipe_favorite', 'recipe_cooked', 'shopping_list_add')
{%- endmacro %}

{#- Names of events that tell something of a user's wishes: what a profile is made from. -#}
{% macro meaningful_event_names() -%}
    (
        'recipe_view', 'recipe_favorite', 'recipe_unfavorite', 'recipe_cooked', 'shopping_list_add', 'search',
        'recommendation_click'
    )
{%- endmacro %}

{#- Interactions by what they tell, from counted ones: the weights are those of live popularity in the near-real-time path
    (core/weights.yaml). -#}
{% macro weighted_interactions() -%}
    (0.5 * views + 1.5 * list_adds + 2.0 * favorites + 3.0 * cookings)
{%- endmacro %}
