{#- Share that is left of something after `age`, in the unit of `half_life`; nothing of what was not there yet. -#}
{% macro decay(age, half_life) -%}
    case when {{ age }} >= 0 then power(0.5, cast({{ age }} as double) / {{ half_life }}) else 0 end
{%- endmacro %}
