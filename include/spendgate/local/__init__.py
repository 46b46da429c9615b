"""What stands in for a data centre on a laptop: PostgreSQL, a broker, Airflow, and sample events."""
