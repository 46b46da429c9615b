"""The warehouse: tables, the one door for connections and transactions, bulk load, SQL statements."""
