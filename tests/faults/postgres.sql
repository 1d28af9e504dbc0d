-- The lab's ERP in PostgreSQL: nothing here is unique, so that an order that comes twice is there twice.
CREATE TABLE orders (number bigserial PRIMARY KEY, order_no text NOT NULL);
CREATE TABLE stock (sku text PRIMARY KEY, written int NOT NULL);
CREATE PROCEDURE place_order(wanted text, mode text, INOUT document text DEFAULT NULL) LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO orders (order_no) VALUES (wanted) RETURNING 'DOC-' || number INTO document;
  IF mode = 'reject' THEN RAISE EXCEPTION 'no credit' USING ERRCODE = 'P0001'; END IF;
  IF mode = 'fail' THEN PERFORM 1 / 0; END IF;
END $$;
CREATE FUNCTION place_order_rows(wanted text, many int) RETURNS TABLE (n int, text text) LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO orders (order_no) VALUES (wanted);
  RETURN QUERY SELECT i, wanted || ' line ' || i FROM generate_series(1, many) i;
END $$;
CREATE PROCEDURE write_stock(wanted text) LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO stock VALUES (wanted, 1) ON CONFLICT (sku) DO UPDATE SET written = stock.written + 1;
END $$;
CREATE FUNCTION place_large_order(wanted text, many int) RETURNS TABLE (n int, text text) LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO orders (order_no) VALUES (wanted);
  RETURN QUERY SELECT i, repeat(md5(i::text), 32) FROM generate_series(1, many) i;
END $$;
