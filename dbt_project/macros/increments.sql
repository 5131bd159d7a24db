{#- Increments of event models, bounded by load time: an event is read when it was loaded after the newest one the model
    holds, minus `lookback_hours`, however late it occurred. A backfill first deletes its days, then reads them again
    beside whatever is new, so running twice gives what running once gives. -#}

{#- The backfill window as {start, end}, or none. Half-open: end_date itself is not touched. -#}
{% macro backfill_window() -%}
    {%- set start, end = var('start_date', none), var('end_date', none) -%}
    {%- if start is none and end is none -%}
        {{ return(none) }}
    {%- endif -%}
    {%- if start is none or end is none or start | string >= end | string -%}
        {%- do exceptions.raise_compiler_error(
            "A backfill needs both days, start before end: --vars '{start_date: 2026-11-01, end_date: 2026-11-02}'; got "
            ~ "start_date=" ~ start ~ ", end_date=" ~ end
        ) -%}
    {%- endif -%}
    {%- for day in [start, end] -%}
        {%- if not modules.re.fullmatch('\\d{4}-\\d{2}-\\d{2}', day | string) -%}
            {%- do exceptions.raise_compiler_error("Not a day of the form YYYY-MM-DD: " ~ day) -%}
        {%- endif -%}
    {%- endfor -%}
    {{ return({'start': start | string, 'end': end | string}) }}
{%- endmacro %}

{#- Condition on `day_column`: the day lies in the backfill window. -#}
{% macro in_backfill_window(day_column) -%}
    {%- set window = backfill_window() -%}
    ({{ day_column }} >= cast('{{ window.start }}' as date) and {{ day_column }} < cast('{{ window.end }}' as date))
{%- endmacro %}

{#- Condition on event rows: arrived since this model's last run, or to be read again. The watermark is written into
    the statement as a literal, so that both engines skip the files before it. -#}
{% macro arrived_since_last_run(day_column='occurred_on') -%}
    {%- if not is_incremental() -%}
        true
    {%- else -%}
        {%- set watermark -%}
            select coalesce(max(loaded_at), cast('1970-01-02' as timestamp)) - interval '{{ var("lookback_hours") }} hours'
            from {{ this }}
        {%- endset -%}
        (
            loaded_at >= cast('{{ run_query(watermark).columns[0].values()[0] if execute }}' as timestamp)
            {%- if backfill_window() %} or {{ in_backfill_window(day_column) }}{% endif -%}
        )
    {%- endif -%}
{%- endmacro %}

{#- Pre-hook: a backfill deletes its days before it fills them again; on DuckLake in one transaction. On Snowflake DDL
    ends a transaction, so the delete stands alone: a backfill that dies there is mended by running it again. -#}
{% macro delete_backfilled_days(day_column='occurred_on') -%}
    {%- if backfill_window() and is_incremental() -%}
        delete from {{ this }} where {{ in_backfill_window(day_column) }}
    {%- endif -%}
{%- endmacro %}
