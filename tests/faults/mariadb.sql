-- The lab's ERP in MariaDB: as in PostgreSQL.
CREATE TABLE orders (number bigint AUTO_INCREMENT PRIMARY KEY, order_no varchar(40) NOT NULL);
DELIMITER //
CREATE PROCEDURE place_order(IN wanted varchar(40), IN mode varchar(10), OUT document varchar(40))
BEGIN
  INSERT INTO orders (order_no) VALUES (wanted);
  SET document = concat('DOC-', last_insert_id());
  IF mode = 'reject' THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'no credit'; END IF;
  IF mode = 'fail' THEN SIGNAL SQLSTATE 'HY000' SET MESSAGE_TEXT = 'broken'; END IF;
END //
CREATE PROCEDURE place_order_rows(IN wanted varchar(40), IN many int)
BEGIN
  INSERT INTO orders (order_no) VALUES (wanted);
  WITH RECURSIVE series AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM series WHERE n < many)
  SELECT n, concat(wanted, ' line ', n) AS text FROM series;
END //
DELIMITER ;
