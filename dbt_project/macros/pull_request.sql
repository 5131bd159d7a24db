{#- Pull requests build into schemas of their own (KURASHIRU_DBT_SCHEMA_PREFIX=pr_<number>) what they change and what
    depends on it; everything else is read where production has it:

      dbt build --select state:modified+ --defer --state <folder with production's manifest.json>

    This drops them again: dbt run-operation drop_prefixed_schemas -#}
{% macro drop_prefixed_schemas() -%}
    {%- set prefix = env_var('KURASHIRU_DBT_SCHEMA_PREFIX', '') -%}
    {%- if not prefix -%}
        {%- do exceptions.raise_compiler_error(
            "KURASHIRU_DBT_SCHEMA_PREFIX names the schemas to drop, for example: export KURASHIRU_DBT_SCHEMA_PREFIX=pr_7"
        ) -%}
    {%- endif -%}
    {%- for schema in ['staging', 'intermediate', 'marts'] -%}
        {%- set relation = api.Relation.create(database=target.database, schema=prefix ~ '_' ~ schema) -%}
        {%- do adapter.drop_schema(relation) -%}
        {%- do log('dropped ' ~ relation.without_identifier(), info=true) -%}
    {%- endfor -%}
{%- endmacro %}
