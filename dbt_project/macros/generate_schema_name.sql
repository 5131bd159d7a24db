{#- Schemas are exactly `staging`, `intermediate` and `marts` in every environment. KURASHIRU_DBT_SCHEMA_PREFIX gives
    a pull request schemas of its own. -#}
{% macro generate_schema_name(custom_schema_name, node) -%}
    {%- set prefix = env_var('KURASHIRU_DBT_SCHEMA_PREFIX', '') -%}
    {{- prefix ~ '_' if prefix -}}
    {{- (custom_schema_name or target.schema) | trim -}}
{%- endmacro %}
