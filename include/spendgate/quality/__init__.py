"""Data quality: batches are measured, judged by declared expectations, and held for a person where they fail one."""
