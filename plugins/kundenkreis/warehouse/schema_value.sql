-- What the task `predict` leaves for the models that run after it, and its history.

create schema if not exists predictions;

-- What is expected of customers who share the same orders in time; each run replaces all rows.
-- Rebuilt every night, hence unlogged.
create unlogged table if not exists predictions.order_scores (
    as_of_date date not null,
    repeat_order_days integer not null,
    days_to_last_order integer not null,
    days_observed integer not null,
    p_alive double precision not null,
    expected_orders_90d double precision not null,
    expected_orders_365d double precision not null,
    expected_next_order_days integer not null,
    primary key (repeat_order_days, days_to_last_order, days_observed)
);

-- How the value models were fitted. One row per as-of day.
create table if not exists history.value_parameters (
    as_of_date date primary key,  -- the day that was computed
    buyers bigint not null,  -- customers with a counted order day
    repeat_buyers bigint not null,  -- of these, with a second one
    orders_outcome text not null,  -- BG/NBD: fitted; kept, the last good parameters scored; none
    orders_reason text,  -- why it was not fitted
    orders_parameters_of date,  -- the as-of day whose fit scored; null: none
    orders_r double precision,  -- BG/NBD r, shape of the order rates
    orders_alpha_days double precision,  -- BG/NBD alpha in days, scale of the order rates
    orders_a double precision,  -- BG/NBD a, of the probabilities to be lost after an order
    orders_b double precision,  -- BG/NBD b, likewise
    orders_log_likelihood double precision,  -- of all buyers, where this night's fit ended
    order_value_outcome text not null,  -- Gamma-Gamma: fitted, kept or none, as above
    order_value_reason text,  -- why it was not fitted
    order_value_parameters_of date,  -- the as-of day whose fit scored; null: none
    order_value_p double precision,  -- Gamma-Gamma p, shape of a customer's order values
    order_value_q double precision,  -- Gamma-Gamma q, shape of the scales between customers
    order_value_v double precision,  -- Gamma-Gamma v, in the reporting currency
    order_value_log_likelihood double precision,  -- of all repeat buyers who paid, likewise
    holdout_days integer,  -- the last days, which a second fit did not see; null: not calibrated
    holdout_customers bigint,  -- buyers known before these days
    holdout_orders bigint,  -- their order days within them
    holdout_orders_expected double precision,  -- what the second fit expected
    holdout_by_repeat_orders jsonb,  -- the same per customer by repeat orders before, 0 to 7 and more
    publication_id bigint  -- null: written by a backfill
);

-- The same of the night that is being built; one row, copied to history when it is published.
create table if not exists predictions.parameters (
    like history.value_parameters including defaults
);
