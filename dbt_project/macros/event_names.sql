{#- Names of events in which a user takes up a recipe. An impression is our act; a click opens the recipe, and that view
    counts; taking a favourite back is no interest. -#}
{% macro interaction_event_names() -%}
    ('recipe_view', 'recipe_favorite', 'recipe_cooked', 'shopping_list_add')
{%- endmacro %}
