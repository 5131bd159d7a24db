{#- What DuckDB and Snowflake say differently. Everything else is written in their common subset. -#}

{#- Text of one field of a JSON object; null when the field is absent. -#}
{% macro json_text(column, field) -%}
    {{ adapter.dispatch('json_text')(column, field) }}
{%- endmacro %}

{% macro duckdb__json_text(column, field) -%}
    ({{ column }} ->> '$.{{ field }}')
{%- endmacro %}

{% macro snowflake__json_text(column, field) -%}
    ({{ column }}:{{ field }}::varchar)
{%- endmacro %}

{#- First element of an array of text; null when the array is empty. -#}
{% macro first_element(column) -%}
    {{ adapter.dispatch('first_element')(column) }}
{%- endmacro %}

{% macro duckdb__first_element(column) -%}
    ({{ column }}[1])
{%- endmacro %}

{% macro snowflake__first_element(column) -%}
    ({{ column }}[0]::varchar)
{%- endmacro %}

{#- Whole seconds from one timestamp to a later one. -#}
{% macro seconds_between(earlier, later) -%}
    {{ adapter.dispatch('seconds_between')(earlier, later) }}
{%- endmacro %}

{% macro duckdb__seconds_between(earlier, later) -%}
    date_diff('second', {{ earlier }}, {{ later }})
{%- endmacro %}

{% macro snowflake__seconds_between(earlier, later) -%}
    datediff('second', {{ earlier }}, {{ later }})
{%- endmacro %}

{#- A moment moved on by the time from `earlier` to `later`, to the microsecond. -#}
{% macro plus_time_between(moment, earlier, later) -%}
    {{ adapter.dispatch('plus_time_between')(moment, earlier, later) }}
{%- endmacro %}

{% macro duckdb__plus_time_between(moment, earlier, later) -%}
    ({{ moment }} + ({{ later }} - {{ earlier }}))
{%- endmacro %}

{% macro snowflake__plus_time_between(moment, earlier, later) -%}
    dateadd('microsecond', datediff('microsecond', {{ earlier }}, {{ later }}), {{ moment }})
{%- endmacro %}
