-- The legacy ERP of the demo: a small trading company, its tables and what it lets others call.

CREATE TABLE customers (
    customer_no  varchar(20) PRIMARY KEY,
    name         varchar(80) NOT NULL,
    city         varchar(40) NOT NULL,
    country      char(2) NOT NULL,
    credit_limit numeric(12, 2) NOT NULL,
    blocked      boolean NOT NULL DEFAULT false,
    iban         varchar(34) NOT NULL
);

CREATE TABLE articles (
    sku         varchar(20) PRIMARY KEY,
    description varchar(80) NOT NULL,
    unit        varchar(4) NOT NULL,
    price       numeric(10, 2) NOT NULL CHECK (price > 0)
);

CREATE TABLE stock (
    sku       varchar(20) NOT NULL REFERENCES articles,
    warehouse char(3) NOT NULL,
    on_hand   numeric(12, 3) NOT NULL,
    reserved  numeric(12, 3) NOT NULL DEFAULT 0,
    PRIMARY KEY (sku, warehouse)
);

CREATE SEQUENCE order_numbers START 4500001;

CREATE TABLE orders (
    order_no    varchar(20) PRIMARY KEY,
    customer_no varchar(20) NOT NULL REFERENCES customers,
    ordered_at  timestamptz NOT NULL DEFAULT now(),
    total       numeric(14, 2) NOT NULL
);

CREATE TABLE order_lines (
    order_no varchar(20) NOT NULL REFERENCES orders,
    line_no  integer NOT NULL,
    sku      varchar(20) NOT NULL REFERENCES articles,
    qty      numeric(12, 3) NOT NULL CHECK (qty > 0),
    price    numeric(10, 2) NOT NULL,
    PRIMARY KEY (order_no, line_no)
);

CREATE TABLE invoices (
    invoice_no  varchar(20) PRIMARY KEY,
    customer_no varchar(20) NOT NULL REFERENCES customers,
    order_no    varchar(20) NOT NULL REFERENCES orders,
    issued      date NOT NULL,
    due         date NOT NULL,
    amount      numeric(14, 2) NOT NULL,
    paid        numeric(14, 2) NOT NULL DEFAULT 0,
    currency    char(3) NOT NULL
);
CREATE INDEX ON invoices (customer_no, issued);

CREATE FUNCTION open_invoices(p_customer varchar, p_since date)
RETURNS TABLE (invoice_no varchar, issued date, due date, amount numeric(14, 2), unpaid numeric(14, 2), currency char(3))
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public AS $$
    SELECT i.invoice_no, i.issued, i.due, i.amount, (i.amount - i.paid)::numeric(14, 2), i.currency
    FROM invoices i
    WHERE i.customer_no = p_customer AND i.issued >= p_since AND i.paid < i.amount
    ORDER BY i.due, i.invoice_no
$$;

CREATE FUNCTION stock_levels(p_sku varchar)
RETURNS TABLE (sku varchar, description varchar, warehouse char(3), on_hand numeric(12, 3), free numeric(12, 3))
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public AS $$
    SELECT s.sku, a.description, s.warehouse, s.on_hand, (s.on_hand - s.reserved)::numeric(12, 3)
    FROM stock s JOIN articles a USING (sku)
    WHERE s.sku LIKE p_sku
    ORDER BY s.sku, s.warehouse
$$;

-- Refuses what the business refuses, with RAISE EXCEPTION (SQLSTATE P0001) and a sentence for people.
CREATE PROCEDURE create_sales_order(p_customer varchar, p_total numeric, p_lines json, OUT p_order_no varchar)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public AS $$
DECLARE
    v_customer customers;
    v_owed     numeric;
    v_sum      numeric := 0;
    v_line     record;
BEGIN
    SELECT * INTO v_customer FROM customers WHERE customer_no = p_customer FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no customer %', p_customer;
    END IF;
    IF v_customer.blocked THEN
        RAISE EXCEPTION 'customer % (%) is blocked for orders', p_customer, v_customer.name;
    END IF;
    SELECT coalesce(sum(amount - paid), 0) INTO v_owed FROM invoices WHERE customer_no = p_customer;
    IF v_owed + p_total > v_customer.credit_limit THEN
        RAISE EXCEPTION 'credit limit of % exceeded: limit %, owed %, this order %',
            p_customer, v_customer.credit_limit, v_owed, p_total;
    END IF;

    p_order_no := nextval('order_numbers')::varchar;
    INSERT INTO orders (order_no, customer_no, total) VALUES (p_order_no, p_customer, p_total);
    FOR v_line IN
        SELECT l.position, l.line ->> 'sku' AS sku, (l.line ->> 'qty')::numeric AS qty, a.price
        FROM json_array_elements(p_lines) WITH ORDINALITY AS l (line, position)
        LEFT JOIN articles a ON a.sku = l.line ->> 'sku'
    LOOP
        IF v_line.price IS NULL THEN
            RAISE EXCEPTION 'line %: there is no article %', v_line.position, v_line.sku;
        END IF;
        INSERT INTO order_lines VALUES (p_order_no, v_line.position, v_line.sku, v_line.qty, v_line.price);
        v_sum := v_sum + round(v_line.qty * v_line.price, 2);
    END LOOP;
    IF v_sum <> p_total THEN
        RAISE EXCEPTION 'the lines come to %, the order says %', v_sum, p_total;
    END IF;
    UPDATE stock s SET reserved = s.reserved + l.qty
    FROM order_lines l WHERE l.order_no = p_order_no AND s.sku = l.sku AND s.warehouse = 'HAM';
END
$$;

CREATE FUNCTION bank_details(p_customer varchar)
RETURNS TABLE (name varchar, iban varchar)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public AS $$
    SELECT c.name, c.iban FROM customers c WHERE c.customer_no = p_customer
$$;

CREATE PROCEDURE set_credit_limit(p_customer varchar, p_limit numeric)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public AS $$
BEGIN
    UPDATE customers SET credit_limit = p_limit WHERE customer_no = p_customer;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no customer %', p_customer;
    END IF;
END
$$;

-- As `outhaul-agent ledger sql` prints it: what makes an order of the agent's happen once.
CREATE TABLE outhaul_ledger (
    command_id  varchar(64) NOT NULL PRIMARY KEY,
    fingerprint varchar(64) NOT NULL,
    operation   varchar(64) NOT NULL,
    attempt     integer     NOT NULL,
    state       varchar(8)  NOT NULL CHECK (state IN ('begun', 'done', 'void')),
    outcome     text,
    written_at  timestamptz NOT NULL
);
