with

segment_members as (

    select * from {{ ref('segment_members') }}

),

customers as (

    select * from {{ ref('customers') }}

),

contactability as (

    select * from {{ ref('contactability') }}
    where channel = 'email'

),

audiences as (

    {{ configured_audiences() }}

),

candidates as (

    select
        audiences.destination,
        audiences.audience,
        audiences.segment,
        audiences.priority,
        segment_members.customer_id,
        case when contactability.is_contactable then contactability.address end as address,
        contactability.evidence,
        case
            when not segment_members.is_contactable
                then coalesce(segment_members.not_contactable_because, 'not_contactable')
            when coalesce(contactability.is_contactable, false) = false
                then coalesce(contactability.reason, 'no_contactable_address')
            when segment_members.is_holdout then 'holdout'
        end as suppressed_because
    from segment_members
    inner join audiences on segment_members.segment = audiences.segment
    left join customers on segment_members.customer_id = customers.customer_id
    left join contactability on customers.email = contactability.address

),

ranked as (

    select
        *,
        row_number() over (
            partition by destination, audience, coalesce(address, customer_id)
            order by
                case when suppressed_because is null then 0 else 1 end,
                priority,
                segment,
                customer_id
        ) as position
    from candidates

),

final as (

    select
        destination,
        audience,
        segment,
        customer_id,
        case when suppressed_because is null then address end as address,
        evidence,
        suppressed_because
    from ranked
    where position = 1

)

select * from final
