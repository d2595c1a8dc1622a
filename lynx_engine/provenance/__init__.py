"""Where clips come from: one flat record an attempt, kept in parquet parts that never change."""
