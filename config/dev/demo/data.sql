-- What stands in the demo's ERP at its start; the same at every start.

INSERT INTO customers
SELECT 'C' || lpad(n::text, 3, '0'),
       (ARRAY['Müller', 'Schröder', 'Groß', 'Lefèvre', 'Bœuf', 'Garçon', 'Kowalczyk', 'Wiśniewski', 'Łukaszewicz', 'Żak'])[1 + n % 10]
       || ' ' ||
       (ARRAY['Maschinenbau GmbH', 'Söhne KG', 'Frères SARL', 'Hydraulique SA', 'Stal Sp. z o.o.', 'Narzędzia S.A.', 'Werkzeuge OHG'])[1 + n % 7],
       (ARRAY['Köln', 'Besançon', 'Łódź', 'München', 'Orléans', 'Gdańsk', 'Lübeck', 'Nîmes'])[1 + n % 8],
       (ARRAY['DE', 'FR', 'PL', 'DE', 'FR', 'PL', 'DE', 'FR'])[1 + n % 8],
       CASE WHEN n % 16 = 7 THEN 20000.00 ELSE 250000.00 + n * 100 END,
       n % 40 = 13,
       'DE' || lpad((10 + n * 7 % 90)::text, 2, '0') || lpad((n * 7919)::text, 18, '0')
FROM generate_series(1, 320) AS n;

INSERT INTO articles
SELECT 'A-' || (1000 + n),
       (ARRAY['Kugelhahn', 'Joint torique', 'Śruba', 'Überwurfmutter', 'Flexible hydraulique', 'Uszczelka'])[1 + n % 6]
       || ' DN' || (ARRAY[15, 20, 25, 32, 40, 50])[1 + n / 6 % 6],
       (ARRAY['pcs', 'pcs', 'box', 'pcs', 'm', 'set'])[1 + n % 6],
       round(1.15 + n * n * 0.37 % 240, 2)
FROM generate_series(1, 60) AS n;

INSERT INTO stock
SELECT sku, warehouse, round((ascii(right(sku, 1)) * 17.125 + ascii(warehouse) * 3.5) % 400, 3)
FROM articles, unnest(ARRAY['HAM', 'LYS', 'WRO']) AS warehouse;

INSERT INTO orders
SELECT (4400000 + n)::varchar, 'C' || lpad((1 + n * 31 % 320)::text, 3, '0'),
       timestamptz '2025-01-02 07:30+01' + n * interval '83 minutes', round(20 + n * 137.43 % 4800, 2)
FROM generate_series(1, 6000) AS n;

INSERT INTO order_lines
SELECT order_no, 1, 'A-' || (1001 + order_no::bigint % 60), 1 + order_no::bigint % 12, total
FROM orders;

INSERT INTO invoices
SELECT 'RE' || (900000 + row_number() OVER (ORDER BY order_no)), customer_no, order_no,
       ordered_at::date + 2, ordered_at::date + 32, round(total * 1.19, 2),
       CASE WHEN order_no::bigint % 9 = 0 THEN 0
            WHEN order_no::bigint % 23 = 0 THEN round(total * 0.5, 2)
            ELSE round(total * 1.19, 2) END,
       CASE WHEN customer_no LIKE '%7' THEN 'CHF' ELSE 'EUR' END
FROM orders;
