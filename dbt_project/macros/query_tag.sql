{#- Query tags on Snowflake: what a model costs can be read from query_history. The session's own tag (profiles.yml) is
    for what dbt does between models. -#}

{% macro snowflake__set_query_tag() -%}
    {%- set tag = {
        'app': 'kurashiru_pipeline',
        'tool': 'dbt',
        'env': env_var('KURASHIRU_ENV', 'local'),
        'run': invocation_id,
        'model': this.schema ~ '.' ~ this.name,
    } -%}
    {%- do run_query("alter session set query_tag = '" ~ tojson(tag) ~ "'") -%}
    {{ return(none) }}
{%- endmacro %}

{#- The next model sets its own. -#}
{% macro snowflake__unset_query_tag(original_query_tag) -%}
{%- endmacro %}
