-- Chance that is the same in every run: a number between 0 and 1 for a key and a purpose.
create schema if not exists benchmark;

create or replace function benchmark.uniform(bigint, bigint) returns double precision
language sql immutable strict parallel safe
return ((hashint8extended($1, $2) & 9007199254740991)::double precision + 0.5) / 9007199254740992.0;

-- A standard normal number (Box and Muller).
create or replace function benchmark.normal(bigint, bigint) returns double precision
language sql immutable strict parallel safe
return sqrt(-2 * ln(benchmark.uniform($1, 2 * $2))) * cos(2 * pi() * benchmark.uniform($1, 2 * $2 + 1));

-- The n-th of some texts, by chance.
create or replace function benchmark.choice(text[], bigint, bigint) returns text
language sql immutable strict parallel safe
return ($1)[1 + floor(benchmark.uniform($2, $3) * cardinality($1))::integer];
