{# Makes what normalised_email() needs to compare international domains: a shop stores the ASCII form
   (xn--bcher-kva.example), a CRM what people typed (bücher.example). Runs before every build but
   that of the plan, which compares no domains and whose role owns no functions. #}
{% macro create_domain_functions() -%}
    {%- if execute and flags.WHICH in ['build', 'run', 'test'] and not builds_the_plan_only() -%}
        {{ return(adapter.dispatch('create_domain_functions', 'kundenkreis')()) }}
    {%- endif -%}
{%- endmacro %}

{# True where models are selected, and all of them belong to the plan. #}
{% macro builds_the_plan_only() -%}
    {%- set schemas = [] -%}
    {%- for unique_id in selected_resources -%}
        {%- set node = graph.nodes.get(unique_id) -%}
        {%- if node and node.resource_type in ['model', 'seed'] -%}
            {%- do schemas.append(node.schema) -%}
        {%- endif -%}
    {%- endfor -%}
    {{ return(schemas | unique | list == ['activation']) }}
{%- endmacro %}

{% macro default__create_domain_functions() -%}
{%- endmacro %}

{# RFC 3492 (Punycode), section 6.3, with the constants of section 5; the labels become `xn--...` as
   in IDNA 2008. Names are brought into lower case and NFC first. #}
{% macro postgres__create_domain_functions() -%}
create schema if not exists staging;

create or replace function staging.punycode(label text) returns text
language plpgsql immutable strict parallel safe as $body$
declare
    digits constant text := 'abcdefghijklmnopqrstuvwxyz0123456789';
    points constant integer[] := array(
        select ascii(letter) from regexp_split_to_table(label, '') with ordinality as l (letter, n)
        order by n
    );
    encoded text := regexp_replace(label, '[^ -~]', '', 'g');
    basic constant integer := length(regexp_replace(label, '[^ -~]', '', 'g'));
    handled integer := basic;
    next_point integer := 128;
    smallest integer;
    delta integer := 0;
    bias integer := 72;
    rest integer;
    threshold integer;
    k integer;
    point integer;
begin
    if basic > 0 then
        encoded := encoded || '-';
    end if;
    while handled < cardinality(points) loop
        select min(p) into smallest from unnest(points) as p where p >= next_point;
        delta := delta + (smallest - next_point) * (handled + 1);
        next_point := smallest;
        foreach point in array points loop
            if point < next_point then
                delta := delta + 1;
            elsif point = next_point then
                rest := delta;
                k := 36;
                loop
                    threshold := least(greatest(k - bias, 1), 26);
                    exit when rest < threshold;
                    encoded := encoded
                        || substr(digits, threshold + (rest - threshold) % (36 - threshold) + 1, 1);
                    rest := (rest - threshold) / (36 - threshold);
                    k := k + 36;
                end loop;
                encoded := encoded || substr(digits, rest + 1, 1);
                -- the bias for the next delta, section 6.1
                delta := case when handled = basic then delta / 700 else delta / 2 end;
                delta := delta + delta / (handled + 1);
                k := 0;
                while delta > 455 loop
                    delta := delta / 35;
                    k := k + 36;
                end loop;
                bias := k + 36 * delta / (delta + 38);
                delta := 0;
                handled := handled + 1;
            end if;
        end loop;
        delta := delta + 1;
        next_point := next_point + 1;
    end loop;
    return encoded;
end
$body$;

create or replace function staging.ascii_domain(domain text) returns text
language sql immutable strict parallel safe as $body$
    select string_agg(
        case when label ~ '[^ -~]' then 'xn--' || staging.punycode(label) else label end,
        '.' order by n
    )
    from regexp_split_to_table(normalize(lower(domain), NFC), '\.') with ordinality as l (label, n)
$body$
{%- endmacro %}
