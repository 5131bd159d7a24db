-- Lists of a canary's challenger, as compute_lists.sql.
-- statement: compute
insert into kernel_results
select
    user_id,
    recommendation.rank_challenger(
        profile,
        recipes_url,
        popularity_url,
        {{ as_of }},
        {{ list_length }}
    ) as result
from ({{ query('snowflake/rank_inputs') }}) as inputs
where is_challenger;
