{#- What DuckDB and Snowflake say differently, as Snowflake says it. The DuckDB twin, with comments, stands beside. -#}
{%- macro json_type() %}variant{% endmacro -%}
{%- macro array_type(element) %}array{% endmacro -%}
{%- macro uuid_type() %}varchar{% endmacro -%}
{%- macro byte_length(text) %}octet_length({{ text }}){% endmacro -%}
{#- REGEXP_LIKE anchors the pattern at both ends. -#}
{%- macro matches(text, pattern) %}regexp_like({{ text }}, {{ pattern }}){% endmacro -%}
{#- 'd': of a key given twice the last counts; without it such a line would be no JSON. -#}
{%- macro json_or_null(text) -%}
case when not contains({{ text }}, '�') then try_parse_json({{ text }}, 'd') end
{%- endmacro -%}
{%- macro is_json_object(value) %}is_object({{ value }}){% endmacro -%}
{%- macro document(value) %}{{ value }}{% endmacro -%}
{#- AS_VARCHAR and AS_OBJECT are null for a value of another type, JSON's null among them. -#}
{%- macro document_text(document, field) %}as_varchar({{ document }}['{{ field }}']){% endmacro -%}
{%- macro document_object(document, field) %}as_object({{ document }}['{{ field }}']){% endmacro -%}
{%- macro document_value(document, field) %}strip_null_value({{ document }}['{{ field }}']){% endmacro -%}
{%- macro to_uuid(text) %}lower({{ text }}){% endmacro -%}
{%- macro to_moment(text) %}try_cast(rtrim({{ text }}, 'Z') as timestamp){% endmacro -%}
{%- macro each(names) %}select value::varchar as user_id from table(flatten(input => array_construct{{ names }})){% endmacro -%}
{%- macro json_text(value, field) %}{{ value }}['{{ field }}']::varchar{% endmacro -%}
{%- macro seconds_between(earlier, later) -%}
(cast(datediff('microsecond', {{ earlier }}, {{ later }}) as double) / 1000000)
{%- endmacro -%}
{%- macro plus_hours(moment, hours) %}dateadd('hour', {{ hours }}, {{ moment }}){% endmacro -%}
{%- macro minus_days(moment, days) %}dateadd('day', -{{ days }}, {{ moment }}){% endmacro -%}
{#- Of Snowflake alone: how the kernel's inputs write a moment. -#}
{%- macro iso_text(moment) %}to_varchar({{ moment }}, 'YYYY-MM-DD"T"HH24:MI:SS.FF6'){% endmacro -%}
