-- Lists by the model in service, by the kernel in the warehouse.
-- statement: compute
insert into kernel_results
select
    user_id,
    recommendation.rank_recipes(
        profile,
        recipes_url,
        popularity_url,
        {{ as_of }},
        {{ list_length }}
    ) as result
from ({{ query('snowflake/rank_inputs') }}) as inputs
where not is_challenger;
