{#- What DuckDB and Snowflake say differently, as DuckDB says it. The Snowflake twin stands beside this file. -#}
{%- macro json_type() %}json{% endmacro -%}
{%- macro array_type(element) %}{{ element }}[]{% endmacro -%}
{%- macro uuid_type() %}uuid{% endmacro -%}
{%- macro byte_length(text) %}strlen({{ text }}){% endmacro -%}
{%- macro matches(text, pattern) %}regexp_full_match({{ text }}, {{ pattern }}){% endmacro -%}
{#- The JSON value a text holds, or null: whoever reads on can meet nothing but JSON. U+FFFD marks bytes that were no
    UTF-8: Snowflake reads them so, and JSON they are on neither engine. -#}
{%- macro json_or_null(text) -%}
case when json_valid({{ text }}) and not contains({{ text }}, '�') then {{ text }} end
{%- endmacro -%}
{%- macro is_json_object(value) -%}
case when starts_with({{ value }}, '{') then true else json_type({{ value }}) = 'OBJECT' end
{%- endmacro -%}
{#- All fields of a JSON object in one reading: a struct of JSON values; absent and JSON's null are both null. -#}
{%- macro document(value) -%}
json_transform({{ value }}, '{ {%- for field in fields %}"{{ field }}": "JSON"{{ ', ' if not loop.last }}{% endfor -%} }')
{%- endmacro -%}
{#- A field that must be a JSON string: its text, or null when absent or of another type. A string without escapes says
    literally what it means. -#}
{%- macro document_text(document, field) -%}
case when starts_with({{ document }}.{{ field }}, '"') then
    case
        when contains({{ document }}.{{ field }}, '\') then {{ document }}.{{ field }} ->> '$'
        else substring({{ document }}.{{ field }}, 2, length({{ document }}.{{ field }}) - 2)
    end
end
{%- endmacro -%}
{#- A field that must be a JSON object: its JSON, or null when absent or of another type. -#}
{%- macro document_object(document, field) -%}
case when starts_with({{ document }}.{{ field }}, '{') then {{ document }}.{{ field }} end
{%- endmacro -%}
{#- A field's JSON, whatever its type; null when absent or JSON's null. -#}
{%- macro document_value(document, field) %}{{ document }}.{{ field }}{% endmacro -%}
{#- A UUID of a text in the form of a UUID; a moment of a text in the contract's form of a time. -#}
{%- macro to_uuid(text) %}try_cast({{ text }} as uuid){% endmacro -%}
{%- macro to_moment(text) %}try_cast({{ text }} as timestamp){% endmacro -%}
{#- A row of user_id for each of a list of texts. -#}
{%- macro each(names) %}select unnest(list_value{{ names }}) as user_id{% endmacro -%}
{%- macro json_text(value, field) %}({{ value }} ->> '$.{{ field }}'){% endmacro -%}
{%- macro seconds_between(earlier, later) %}(date_diff('microsecond', {{ earlier }}, {{ later }}) / 1000000){% endmacro -%}
{%- macro plus_hours(moment, hours) %}({{ moment }} + to_hours({{ hours }})){% endmacro -%}
{%- macro minus_days(moment, days) %}({{ moment }} - to_days({{ days }})){% endmacro -%}
